// Asks V8 and ICU what the tests compare with. `node generate.mjs` writes v8.json and collation.json beside itself, the
// same bytes every time. They were made with node 20.20.2, which has V8 11.3 and ICU 78.2.
import { writeFileSync } from "node:fs";

// xorshift32: the same documents on every machine.
let state = 0x9e3779b9;
const random = (below) => {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % below;
};
const pick = (list) => list[random(list.length)];
const hex = (code) => code.toString(16).padStart(4, "0");

// ---- JSON: text, JSON.stringify(JSON.parse(text)), and the same with sorted keys ----

const NUMBERS = [
  "0", "-0", "-0.0", "0e0", "0e-400", "1", "-1", "1.0", "10", "1e0", "1E+2", "1e-2", "443", "65535", "4294967295", "4294967296", "2147483647",
  "2147483648", "-2147483648", "-2147483649", "9007199254740991", "9007199254740993", "123456789012345680000", "1e20", "1e21", "999999999999999999999",
  "1e22", "1e-6", "1e-7", "0.000001", "0.0000001", "0.1", "0.30000000000000004", "5e-324", "2e-324", "2.2250738585072014e-308", "1.7976931348623157e308",
  "4.35", "0.5", "1e300", "333333333.33333329", "1424953923781206.2", "9.5367431640625e-7", "295147905179352830000", "-1.5e-10", "100000000000000000000000",
];
const number = () => {
  switch (random(5)) {
    case 0: return String(random(70000));
    case 1: return `${random(2) ? "-" : ""}${random(1000)}.${random(1000000)}`;
    case 2: return `${random(10)}.${random(1000000000)}${random(1000000)}e${pick(["", "+", "-"])}${random(300)}`;
    default: return pick(NUMBERS);
  }
};

const CHARACTERS = ["a", "B", "z", " ", "/", "\x7f", "\x80", "é", "ß", "\u07ff", "\u0800", "\u2028", "\u2029", "\ud7ff", "\ue000", "\ufb33", "\ufeff", "\ufffd",
  "\uffff", "😀", "\u{10000}", "\u{10ffff}", "中", "٣"];
const ESCAPES = ['\\"', "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t", "\\u0000", "\\u001F", "\\u001f", "\\u0041", "\\u00e9", "\\u2028", "\\uD83D\\uDE00",
  "\\udbff\\udfff", "\\u007f"];
const character = () => {
  switch (random(6)) {
    case 0: return pick(ESCAPES);
    case 1: return `\\u${hex(random(0xd800))}`;
    case 2: return pick(CHARACTERS);
    default: return String.fromCharCode(97 + random(26));
  }
};
const string = (most) => `"${Array.from({ length: random(most) }, character).join("")}"`;

const NAMES = ["0", "1", "2", "9", "10", "00", "01", "-1", "-0", "1.0", "1e1", " 1", "4294967294", "4294967295", "4294967296", "2147483648", "42949672940", "",
  "__proto__", "constructor", "length", "toString", "a", "A", "b", "\\u0031", "\\u0061b", "😀", "\ufffd", "\ue000", "é", "policy_version"];
const name = () => {
  switch (random(4)) {
    case 0: return `"${random(120)}"`;
    case 1: return string(5);
    default: return `"${pick(NAMES)}"`;
  }
};

const space = () => pick(["", "", "", "", "", " ", "\n", "\t", "\r\n "]);
const value = (depth) => {
  const kind = random(depth > 0 ? 9 : 5);
  if (kind < 2) return number();
  if (kind < 4) return string(8);
  if (kind === 4) return pick(["true", "false", "null"]);
  const list = (item, open, close) =>
    open + Array.from({ length: random(6) }, () => space() + item() + space()).join(",") + space() + close;
  if (kind < 6) return list(() => value(depth - 1), "[", "]");
  const seen = new Set();
  const members = [];
  for (let left = random(8); left > 0; left--) {
    const member = name();
    if (seen.has(JSON.parse(member))) continue; // a duplicate is refused, which another test sees
    seen.add(JSON.parse(member));
    members.push(`${space()}${member}${space()}:${space()}${value(depth - 1)}${space()}`);
  }
  return `{${members.join(",")}${space()}}`;
};

const sorted = (value) => {
  if (Array.isArray(value)) return `[${value.map(sorted).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${sorted(value[key])}`).join(",")}}`;
};

// The list is valid JSON one document a line, so that a difference shows where it is.
const lines = (list) => `[\n${list.map((item) => JSON.stringify(item)).join(",\n")}\n]\n`;

const documents = [`[${NUMBERS.join(",")}]`, `[${ESCAPES.map((escape) => `"${escape}"`).join(",")}]`];
while (documents.length < 500) {
  const text = value(3);
  if (text.length <= 160 && (text.length > 12 || random(8) === 0)) documents.push(text);
}
writeFileSync(new URL("v8.json", import.meta.url), lines(documents.map((text) => {
  const parsed = JSON.parse(text);
  return { text, insertion: JSON.stringify(parsed), sorted: sorted(parsed) };
})));

// ---- Collation: a, b, the sign of a.localeCompare(b, "en-US") ----

const HOSTS = ["a", "b", "B", "api.x", "api-x", "*.a.example", "a.example", "localhost", "127.0.0.1", "::1", "crm-mcp.example.com", "crm_mcp.example.com", "x", "xn--a"];
const text = () => {
  if (random(4) === 0) return pick(HOSTS);
  const most = 1 + random(8);
  const few = random(2) === 0;
  return Array.from({ length: random(most + 1) }, () => few ? pick("aAbB.-*1") : String.fromCharCode(32 + random(95))).join("");
};
const swapped = (text) => [...text].map((c) => random(3) ? c : c === c.toLowerCase() ? c.toUpperCase() : c.toLowerCase()).join("");
const pair = () => {
  const a = text();
  // Near misses are where an order goes wrong: the other case, one more character, the same beginning.
  const b = pick([text, text, () => swapped(a), () => a + text(), () => a.slice(0, random(a.length + 1)) + text()])();
  return [a, b, Math.sign(a.localeCompare(b, "en-US"))];
};
const count = Number(process.argv[2] ?? 600);
writeFileSync(process.argv[3] ?? new URL("collation.json", import.meta.url), lines(Array.from({ length: count }, pair)));
