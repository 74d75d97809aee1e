// Greets a port of this host once for each line of its input: a server's name, or "-" for none.
const fs = require("fs");
const tls = require("tls");

const chance = (share) => Math.random() < share;
const pick = (list) => list[Math.floor(Math.random() * list.length)];
const some = (list) => list.filter(() => chance(0.5)).concat(pick(list));

function options(name) {
  const chosen = { host: "127.0.0.1", port: Number(process.argv[2]), rejectUnauthorized: false };
  chosen.servername = name === "-" ? "" : name;
  [chosen.minVersion, chosen.maxVersion] = [pick(["TLSv1.2", "TLSv1.3"]), "TLSv1.3"];
  if (chance(0.2)) chosen.minVersion = chosen.maxVersion = "TLSv1.2";
  if (chance(0.4)) chosen.ecdhCurve = [...new Set(some(["X25519", "P-256", "P-384", "P-521", "X448"]))].join(":");
  if (chance(0.4)) chosen.ALPNProtocols = some(["h2", "http/1.1", "p".repeat(250), "q".repeat(255), "r".repeat(100)]);
  if (chance(0.3)) chosen.ciphers = pick(["DEFAULT", "HIGH", "ECDHE-RSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256"]);
  if (chance(0.3)) chosen.sigalgs = pick(["ecdsa_secp256r1_sha256:rsa_pss_rsae_sha256", "rsa_pkcs1_sha512"]);
  return chosen;
}

async function greet(name) {
  await new Promise((done) => tls.connect(options(name)).on("error", () => {}).on("close", done));
}

(async () => {
  for (const name of fs.readFileSync(0, "utf8").trim().split("\n")) await greet(name);
})();
