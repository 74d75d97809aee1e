//! What an expression cannot tell: whether what looks like one is one.

use std::ops::Range;

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::number;

const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, CONFIG);
const URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, CONFIG);

/// Bytes of a private key's text.
const LONGEST_KEY: usize = 64 << 10;

/// Bytes by which it is told whether a value is random.
const TELLING: usize = 96;

/// Bytes of a JWT.
const LONGEST_TOKEN: usize = 16 << 10;

/// A value with one of these in it (in lower case) stands for another one.
const STANDS_FOR: [&[u8]; 24] = [
    b"example",
    b"placeholder",
    b"redacted",
    b"changeme",
    b"change-me",
    b"change_me",
    b"your",
    b"xxxx",
    b"****",
    b"....",
    b"dummy",
    b"sample",
    b"fake",
    b"insert",
    b"${",
    b"{{",
    b"$(",
    b"<%",
    b"todo",
    b"undefined",
    b"null",
    b"____",
    b"----",
    b"process.env",
];

/// What passes for a password and is none.
const NO_PASSWORDS: [&[u8]; 16] = [
    b"password",
    b"passwort",
    b"passwd",
    b"kennwort",
    b"passphrase",
    b"base64",
    b"sha256",
    b"sha512",
    b"bcrypt",
    b"argon2",
    b"utf-8",
    b"utf8",
    b"int32",
    b"int64",
    b"uint8",
    b"://",
];

/// A further condition of a pattern, by the name that it has in the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// The default: it does not stand for another value.
    Token,
    /// Letters and digits, mixed.
    Varied,
    /// The last byte only shows that the token ended before it.
    Trimmed,
    /// A key's header, with a key behind it.
    Pem,
    /// A PuTTY key's header, with its private part.
    Putty,
    /// A JWK's private exponent or key.
    Jwk,
    /// A JWS or JWE in compact form: its first part is a header.
    Jwt,
    /// A bot's token: its first part is a number in base64.
    Discord,
    /// Random text that a name before it calls a key.
    Key,
    /// The same, which is no UUID.
    RandomToken,
    /// A password that a name before it calls one.
    Password,
    /// A password between words of a command.
    Word,
    /// The password of a URL.
    Userinfo,
    /// What follows a scheme of `Authorization`.
    Authorization,
    /// `user:password` in base64, with the scheme before it.
    Basic,
    /// See [`number::card`].
    Card,
    /// See [`number::iban`].
    Iban,
}

impl Check {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "varied" => Self::Varied,
            "trimmed" => Self::Trimmed,
            "pem" => Self::Pem,
            "putty" => Self::Putty,
            "jwk" => Self::Jwk,
            "jwt" => Self::Jwt,
            "discord" => Self::Discord,
            "key" => Self::Key,
            "token" => Self::RandomToken,
            "password" => Self::Password,
            "word" => Self::Word,
            "userinfo" => Self::Userinfo,
            "authorization" => Self::Authorization,
            "basic" => Self::Basic,
            "card" => Self::Card,
            "iban" => Self::Iban,
            _ => return None,
        })
    }

    /// What of `text` is found: the expression matched at `start`, and `range` is what it means. `text` ends where the string
    /// does.
    pub(super) fn pass(self, text: &[u8], start: usize, range: Range<usize>) -> Option<Range<usize>> {
        let value = text.get(range.clone())?;
        let after = text.get(range.end).copied();
        let passes = match self {
            Self::Token => stands_for_itself(value),
            Self::Varied => stands_for_itself(value) && varied(value),
            Self::Trimmed => {
                let end = range.end - usize::from(value.last().is_some_and(|byte| !of_tokens(*byte)));
                return stands_for_itself(value).then_some(range.start..end);
            }
            Self::Pem => return pem(text, range),
            Self::Putty => return putty(text, range),
            Self::Jwk => jwk(text, &range),
            Self::Jwt => return jwt(text, range),
            Self::Discord => discord(value),
            Self::Key => after != Some(b'(') && !qualified(text, start) && random(value),
            Self::RandomToken => {
                after != Some(b'(') && !qualified(text, start) && !paging(text, start) && random(value) && !uuid(value)
            }
            Self::Password => return password(text, range).filter(|_| !qualified(text, start)),
            Self::Word => is_password(value, false),
            Self::Userinfo => return userinfo(text, range),
            Self::Authorization => authorization(value),
            Self::Basic => value.iter().position(|byte| *byte == b' ').is_some_and(|at| basic(&value[at + 1..])),
            Self::Card => return number::card(text, range.start),
            Self::Iban => return number::iban(text, range.start),
        };
        passes.then_some(range)
    }
}

/// Letters, digits and `_`.
pub(super) fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// How many bytes a token goes on here.
pub(super) fn token(text: &[u8]) -> usize {
    text.iter().take_while(|byte| of_tokens(**byte)).count()
}

/// What tokens are made of.
fn of_tokens(byte: u8) -> bool {
    word(byte) || matches!(byte, b'-' | b'.' | b'+' | b'/' | b'=' | b'~' | b'%')
}

fn contains(value: &[u8], part: &[u8]) -> bool {
    value.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

fn distinct(value: &[u8]) -> usize {
    let mut seen = [false; 256];
    value.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    seen.into_iter().filter(|seen| *seen).count()
}

/// No word of a manual, and not the same few characters again and again.
fn stands_for_itself(value: &[u8]) -> bool {
    let value = &value[..value.len().min(TELLING)];
    distinct(value) >= 8 && !STANDS_FOR.iter().any(|part| contains(value, part))
}

fn count(value: &[u8], of: impl Fn(&u8) -> bool) -> usize {
    value.iter().filter(|byte| of(byte)).count()
}

/// Letters and digits, mixed as chance does it, and not as words with a number behind.
fn varied(value: &[u8]) -> bool {
    fn kind(byte: u8) -> u8 {
        match byte {
            b'0'..=b'9' => 1,
            b'a'..=b'z' => 2,
            b'A'..=b'Z' => 3,
            _ => 0,
        }
    }
    let changes = value.windows(2).filter(|pair| {
        let (one, other) = (kind(pair[0]), kind(pair[1]));
        one != other && one != 0 && other != 0
    });
    count(value, u8::is_ascii_digit) >= 2
        && count(value, u8::is_ascii_alphabetic) >= 2
        && changes.count() * 6 >= value.len()
}

/// Bits of information that a byte of it carries on average, by how often each occurs.
fn entropy(value: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    value.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let all = value.len() as f64;
    counts
        .into_iter()
        .filter(|count| *count > 0)
        .map(|count| f64::from(count) / all)
        .map(|share| -share * share.log2())
        .sum()
}

fn random(value: &[u8]) -> bool {
    let value = &value[..value.len().min(TELLING)];
    // A name has words in it that chance does not make.
    const NAMES: [&[u8]; 9] =
        [b"key", b"secret", b"token", b"password", b"config", b"option", b"flags", b"type", b"://"];
    stands_for_itself(value)
        && varied(value)
        && entropy(value) >= 3.0
        && !NAMES.iter().any(|part| contains(value, part))
}

/// What stands before a name, as far as it belongs to it.
fn name_before(text: &[u8], start: usize, of: impl Fn(u8) -> bool) -> &[u8] {
    let before = &text[start.saturating_sub(48)..start];
    let length = before.iter().rev().take_while(|byte| of(**byte)).count();
    &before[before.len() - length..]
}

/// Whether a name is the end of a longer one of types or resources: `AWS::IAM::AccessKey`, `arn:aws:…:secret:`.
fn qualified(text: &[u8], start: usize) -> bool {
    let name = name_before(text, start, |byte| word(byte) || matches!(byte, b':' | b'-' | b'.' | b'/'));
    contains(name, b"::") || contains(name, b"arn:") || contains(name, b"urn:")
}

/// Whether a token shows the next page, or that a form was sent from where it was shown.
fn paging(text: &[u8], start: usize) -> bool {
    const WORDS: [&[u8]; 10] =
        [b"page", b"next", b"csrf", b"xsrf", b"cancel", b"continu", b"progress", b"sync", b"cursor", b"pagin"];
    let name = name_before(text, start, |byte| word(byte) || matches!(byte, b'-' | b' '));
    let near = &name[name.len().saturating_sub(16)..];
    WORDS.iter().any(|word| contains(near, word))
}

fn uuid(value: &[u8]) -> bool {
    value.len() == 36
        && value.iter().enumerate().all(|(i, byte)| match i {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A key's text up to its last line, or as far as there is one. A header alone is none, as programs have it that look for keys.
fn pem(text: &[u8], header: Range<usize>) -> Option<Range<usize>> {
    let rest = &text[header.end..text.len().min(header.end + LONGEST_KEY)];
    let dashes = rest.windows(4).position(|window| window == b"----").unwrap_or(rest.len());
    let (body, tail) = rest.split_at(dashes);
    // The longest line of it must be long, and not a word.
    let line = body.split(|byte| !base64(byte)).map(<[u8]>::len).max().unwrap_or_default();
    if line < 32 {
        return None;
    }
    let dash = |text: &[u8]| text.iter().take_while(|byte| **byte == b'-').count();
    let last = &tail[dash(tail)..];
    let end = if last.trim_ascii_start().starts_with(b"END ") {
        let words = last.iter().take(100).position(|byte| *byte == b'-').unwrap_or(3);
        rest.len() - last.len() + words + dash(&last[words..])
    } else {
        // Cut off: all lines that are as a key's are.
        let keeps = |line: &&[u8]| {
            line.contains(&b':') || line.iter().all(|byte| base64(byte) || byte.is_ascii_whitespace() || *byte == b'\\')
        };
        let mut lines = body.split_inclusive(|byte| matches!(byte, b'\n' | b'\\'));
        let whole: usize = lines.by_ref().take_while(keeps).map(<[u8]>::len).sum();
        whole + body[whole..].iter().take_while(|byte| base64(byte)).count()
    };
    Some(header.start..header.end + end)
}

fn base64(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

/// A PuTTY key up to the sum over it.
fn putty(text: &[u8], header: Range<usize>) -> Option<Range<usize>> {
    let position = |text: &[u8], word: &[u8]| text.windows(word.len()).position(|window| window == word);
    let rest = &text[header.end..text.len().min(header.end + LONGEST_KEY)];
    // Up to the next one.
    let rest = &rest[..position(rest, b"PuTTY-User-Key-File-").unwrap_or(rest.len())];
    let private = position(rest, b"Private-Lines:")?;
    let end = position(&rest[private..], b"Private-MAC:").map_or(rest.len(), |at| private + at);
    rest[private..end]
        .split(|byte| !base64(byte))
        .any(|line| line.len() >= 32)
        .then_some(header.start..header.end + end)
}

/// The private part of a JWK (RFC 7517): other members say what it is.
fn jwk(text: &[u8], range: &Range<usize>) -> bool {
    let value = &text[range.clone()];
    matches!(value.len(), 43 | 64 | 76 | 88 | 171 | 342 | 512 | 683) && stands_for_itself(value) && {
        let near = &text[range.start.saturating_sub(2000)..text.len().min(range.end + 2000)];
        contains(near, b"kty") || contains(near, b"crv")
    }
}

fn jwt(text: &[u8], range: Range<usize>) -> Option<Range<usize>> {
    if text[..range.start].ends_with(b".") {
        // The second part of one.
        return None;
    }
    let rest = &text[range.start..text.len().min(range.start + LONGEST_TOKEN)];
    let whole = &rest[..rest.iter().take_while(|byte| word(**byte) || matches!(byte, b'-' | b'.')).count()];
    let mut parts = whole.split(|byte| *byte == b'.');
    let header = URL.decode(parts.next()?).ok()?;
    let signed = parts.nth(1).is_some_and(|signature| signature.len() >= 16);
    (header.first() == Some(&b'{') && contains(&header, b"\"alg\"") && signed && stands_for_itself(parts_of(whole)))
        .then_some(range.start..range.start + whole.len())
}

/// Of a JWT what is not always alike.
fn parts_of(whole: &[u8]) -> &[u8] {
    whole.rsplit(|byte| *byte == b'.').next().unwrap_or_default()
}

fn discord(value: &[u8]) -> bool {
    let id = value.split(|byte| *byte == b'.').next().unwrap_or_default();
    URL.decode(id).is_ok_and(|id| (15..=20).contains(&id.len()) && id.iter().all(u8::is_ascii_digit))
}

/// What a password is that a name calls so: what is quoted goes to the quote, what a member has is all of it.
fn password(text: &[u8], range: Range<usize>) -> Option<Range<usize>> {
    let (start, mut end) = (range.start, range.end);
    let before = text.get(start.checked_sub(1)?).copied();
    let quoted = match before {
        Some(1) => {
            end = text.len();
            true
        }
        Some(quote @ (b'"' | b'\'' | b'`')) => {
            let rest = &text[start..text.len().min(start + 256)];
            end = start + rest.iter().position(|byte| *byte == quote || matches!(byte, b'\n' | b'\r' | b'\\'))?;
            true
        }
        _ => false,
    };
    let value = text.get(start..end)?;
    (text.get(end) != Some(&b'(') && is_password(value, quoted)).then_some(start..end)
}

/// Whether it is a password rather than the word for one, a variable, a path or a type.
fn is_password(value: &[u8], quoted: bool) -> bool {
    if !(6..=128).contains(&value.len()) {
        return false;
    }
    let letter = value.iter().any(|byte| byte.is_ascii_alphabetic() || *byte >= 0x80);
    let digit = value.iter().any(u8::is_ascii_digit);
    let sign =
        |byte: &u8| matches!(byte, b'!' | b'@' | b'#' | b'$' | b'%' | b'^' | b'*' | b'+' | b'?' | b'=' | b'~' | b'&');
    let first = value.first().copied().unwrap_or_default();
    let variable = match first {
        b'$' | b'%' | b'@' => value
            .get(1)
            .is_none_or(|byte| !byte.is_ascii_digit() && (!quoted || value.ends_with(b"%") || first == b'$')),
        b'/' | b'.' | b'*' | b'&' | b'#' | b'-' | b'+' | b'=' | b'!' | b'?' | b'^' | b'~' => !quoted,
        _ => false,
    };
    // `request.args2`, `self::pass2`
    let member = !quoted
        && value.iter().all(|byte| word(*byte) || matches!(byte, b'.' | b':' | b'-'))
        && value[1..].iter().any(|byte| matches!(byte, b'.' | b':'));
    // `WIN32_ERROR`
    let constant = !quoted
        && value.contains(&b'_')
        && value.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_');
    letter
        && (digit || value.iter().any(sign))
        && distinct(value) >= 4
        && !variable
        && !member
        && !constant
        && !value.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, b'<' | b'>' | b'(' | b'{'))
        && !STANDS_FOR.iter().chain(&NO_PASSWORDS).any(|part| contains(value, part))
        && count(value, |byte| *byte == b'/') < 2
}

fn userinfo(text: &[u8], range: Range<usize>) -> Option<Range<usize>> {
    // `://user:password@h`
    let whole = &text[range.clone()];
    let (colon, at) =
        (whole[3..].iter().position(|byte| *byte == b':')? + 3, whole.iter().rposition(|byte| *byte == b'@')?);
    let (user, password) = (&whole[3..colon], whole.get(colon + 1..at)?);
    let words: [&[u8]; 12] = [
        b"pass",
        b"password",
        b"passwd",
        b"pwd",
        b"pw",
        b"secret",
        b"token",
        b"user",
        b"username",
        b"key",
        b"pat",
        b"apikey",
    ];
    let stands = STANDS_FOR.iter().any(|part| contains(password, part));
    let sign = password.first().is_some_and(|byte| matches!(byte, b'$' | b'{' | b'[' | b'%' | b'(' | b'*'));
    let says = password.len() >= 3
        && password != user
        && !stands
        && !sign
        && !words.iter().any(|word| password.eq_ignore_ascii_case(word))
        && password.iter().any(u8::is_ascii_alphanumeric)
        && !password.iter().any(|byte| matches!(byte, b'{' | b'}' | b'(' | b')' | b'\\'));
    says.then_some(range.start + colon + 1..range.start + at)
}

fn authorization(value: &[u8]) -> bool {
    basic(value) || (value.len() >= 16 && stands_for_itself(value) && count(value, u8::is_ascii_digit) >= 1)
}

fn basic(value: &[u8]) -> bool {
    let Ok(decoded) = PLAIN.decode(value) else { return false };
    let Some(colon) = decoded.iter().position(|byte| *byte == b':') else { return false };
    let text = std::str::from_utf8(&decoded).is_ok_and(|text| !text.chars().any(char::is_control));
    text && colon > 0 && decoded.len() > colon + 3
}
