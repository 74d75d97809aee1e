//! What the reader takes for a ClientHello has the name that rustls, as a server, finds in the same bytes.
//!
//! An input that begins like a handshake record is taken as it is, and with its lengths made right. From any other a
//! ClientHello is made whose fields and lengths are mostly right: what is wrong everywhere is refused by everybody.
#![no_main]

use arbitrary::{Result, Unstructured};
use clawguard_common::hello::{GREETING_BUFFER, Outcome, read};
use libfuzzer_sys::fuzz_target;
use rustls::{pki_types::ServerName, server::Acceptor};

/// What rustls finds.
#[derive(Debug)]
enum Found {
    Hello(Option<String>),
    Wait,
    Refused,
}

fn rustls(mut bytes: &[u8]) -> Found {
    let mut acceptor = Acceptor::default();
    loop {
        // It takes no more than it has room for.
        match acceptor.read_tls(&mut bytes) {
            Ok(0) | Err(_) => return Found::Wait,
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return Found::Hello(accepted.client_hello().server_name().map(str::to_owned)),
            Err(_) => return Found::Refused,
        }
    }
}

/// Once in so many times, and never when the input is used up.
fn rarely(u: &mut Unstructured<'_>, times: u8) -> Result<bool> {
    Ok(!u.ratio(times - 1, times)?)
}

/// A part behind its length, which is wrong now and then.
fn part(u: &mut Unstructured<'_>, width: usize, body: &[u8]) -> Result<Vec<u8>> {
    let length = if rarely(u, 240)? { (body.len() + 3).saturating_sub(u.int_in_range(0..=6)?) } else { body.len() };
    let mut part = (length as u64).to_be_bytes()[8 - width..].to_vec();
    part.extend(body);
    Ok(part)
}

/// Some bytes that nobody looks into.
fn opaque(u: &mut Unstructured<'_>, most: usize) -> Result<Vec<u8>> {
    let length = u.int_in_range(0..=most)?;
    Ok(vec![u.arbitrary::<u8>()?; length])
}

fn name(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    const LETTERS: &[u8] = b"abcdefghuvwxyzABCXYZ0189-_";
    let mut name = Vec::new();
    match u.int_in_range(0..=15)? {
        0 => name = u.arbitrary()?,
        1 => name.extend(b"203.0.113.7"),
        2 => name.extend(b"2001:db8::7"),
        3 => name = vec![b'a'; u.int_in_range(250..=256)?],
        _ => {
            for _ in 0..u.int_in_range(1..=4)? {
                for _ in 0..u.int_in_range(1..=9)? {
                    name.push(*u.choose(LETTERS)?);
                }
                name.push(b'.');
            }
            if u.ratio(7, 8)? {
                name.pop();
            }
        }
    }
    Ok(name)
}

fn names(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut list = Vec::new();
    let count = if rarely(u, 16)? { u.int_in_range(0..=2)? } else { 1 };
    for _ in 0..count {
        list.push(u8::from(rarely(u, 100)?));
        let name = name(u)?;
        list.extend(part(u, 2, &name)?);
    }
    part(u, 2, &list)
}

fn extension(u: &mut Unstructured<'_>, kind: u16) -> Result<Vec<u8>> {
    let body = match kind {
        0 => names(u)?,
        // Groups, points, signatures, protocols, versions, shares.
        10 => part(u, 2, &[0, 29, 0, 23])?,
        11 => part(u, 1, &[0])?,
        13 => part(u, 2, &[4, 3, 8, 4])?,
        16 => part(u, 2, b"\x02h2\x08http/1.1")?,
        43 => part(u, 1, &[3, 4, 3, 3])?,
        51 => {
            let mut share = vec![0x11, 0xec];
            let key = opaque(u, 1300)?;
            share.extend(part(u, 2, &key)?);
            part(u, 2, &share)?
        }
        _ => opaque(u, 300)?,
    };
    let mut extension = kind.to_be_bytes().to_vec();
    extension.extend(part(u, 2, &body)?);
    Ok(extension)
}

fn extensions(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    const KINDS: [u16; 18] = [0, 0, 10, 11, 13, 13, 16, 18, 21, 23, 35, 42, 43, 51, 0x0a0a, 0xfe0d, 0xffce, 0xff01];
    let mut kinds = Vec::new();
    for _ in 0..u.int_in_range(0..=12)? {
        let kind = if rarely(u, 12)? { u.arbitrary()? } else { *u.choose(&KINDS)? };
        // Two of a kind are refused by rustls.
        if !kinds.contains(&kind) || rarely(u, 80)? {
            kinds.push(kind);
        }
    }
    if !kinds.contains(&13) && u.ratio(15, 16)? {
        kinds.push(13);
    }
    let mut extensions = Vec::new();
    for kind in kinds {
        extensions.extend(extension(u, kind)?);
    }
    Ok(extensions)
}

fn message(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut body = vec![3, if rarely(u, 150)? { u.arbitrary()? } else { 3 }];
    body.extend([u.arbitrary::<u8>()?; 32]);
    let session = if rarely(u, 2)? { opaque(u, 33)? } else { Vec::new() };
    body.extend(part(u, 1, &session)?);
    let ciphers = vec![0x13; 2 * u.int_in_range(0..=40)? + usize::from(rarely(u, 150)?)];
    body.extend(part(u, 2, &ciphers)?);
    let compression = vec![0; usize::from(!rarely(u, 150)?) + usize::from(rarely(u, 150)?)];
    body.extend(part(u, 1, &compression)?);
    if !rarely(u, 150)? {
        let extensions = extensions(u)?;
        body.extend(part(u, 2, &extensions)?);
    }
    let mut message = vec![if rarely(u, 150)? { u.arbitrary()? } else { 1 }];
    message.extend(part(u, 3, &body)?);
    Ok(message)
}

fn record(u: &mut Unstructured<'_>, body: &[u8]) -> Result<Vec<u8>> {
    let mut record = vec![if rarely(u, 150)? { u.arbitrary()? } else { 22 }, 3];
    record.push(if rarely(u, 150)? { u.arbitrary()? } else { u.int_in_range(1..=3)? });
    record.extend(part(u, 2, body)?);
    Ok(record)
}

fn flight(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut handshake = message(u)?;
    if rarely(u, 60)? {
        handshake.extend(message(u)?);
    }
    let mut flight = Vec::new();
    if rarely(u, 80)? {
        let (first, second) = handshake.split_at(u.int_in_range(0..=handshake.len())?);
        flight.extend(record(u, first)?);
        flight.extend(record(u, second)?);
    } else {
        flight.extend(record(u, &handshake)?);
    }
    if rarely(u, 8)? {
        let more = message(u)?;
        flight.extend(record(u, &more)?);
    }
    for _ in 0..if rarely(u, 4)? { u.int_in_range(1..=3)? } else { 0 } {
        let at = u.choose_index(flight.len())?;
        flight[at] = u.arbitrary()?;
    }
    if rarely(u, 10)? {
        flight.truncate(u.choose_index(flight.len())?);
    }
    Ok(flight)
}

/// The same as one record of one ClientHello that rustls refuses for its name alone: its lengths agree with each other, and
/// but for names and what this reader knows its extensions are such that nobody knows, no two alike.
fn repaired(flight: &[u8]) -> Option<Vec<u8>> {
    const SESSION: usize = 43;
    let mut fixed = flight.to_vec();
    fixed.truncate(GREETING_BUFFER);
    let two = |bytes: &[u8], at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let session = fixed.get(SESSION)? % 33;
    fixed[SESSION] = session;
    let ciphers = SESSION + 1 + usize::from(session);
    let length = (two(&fixed, ciphers)? % 128 & !1).max(2);
    set(&mut fixed, ciphers, length)?;
    let compression = ciphers + 2 + length;
    fixed.get_mut(compression..compression + 2)?.copy_from_slice(&[1, 0]);
    let extensions = compression + 2;
    let mut at = extensions + 2;
    while fixed.len() >= at + 4 {
        let length = two(&fixed, at + 2)?.min(fixed.len() - at - 4);
        set(&mut fixed, at + 2, length)?;
        match two(&fixed, at)? {
            0 if length > 5 => {
                set(&mut fixed, at + 4, length - 2)?;
                set(&mut fixed, at + 7, length - 5)?;
            }
            0 | 42 | 0xfe0d | 0xffce => {}
            _ => set(&mut fixed, at, 0x4000 + at)?,
        }
        at += 4 + length;
    }
    fixed.truncate(at);
    // Without signature algorithms it refuses whatever else there is.
    fixed.extend([0, 13, 0, 4, 0, 2, 4, 3]);
    let length = fixed.len();
    set(&mut fixed, extensions, length.checked_sub(extensions + 2)?)?;
    set(&mut fixed, 3, length - 5)?;
    set(&mut fixed, 7, length - 9)?;
    fixed[5..7].copy_from_slice(&[1, 0]);
    Some(fixed)
}

fn set(bytes: &mut [u8], at: usize, length: usize) -> Option<()> {
    bytes.get_mut(at..at + 2)?.copy_from_slice(&(length as u16).to_be_bytes());
    Some(())
}

fn check(flight: &[u8]) {
    let flight = &flight[..flight.len().min(GREETING_BUFFER)];
    let mut bytes = [0; GREETING_BUFFER];
    bytes[..flight.len()].copy_from_slice(flight);
    let ours = read(&bytes, flight.len() as u32);
    let theirs = rustls(flight);
    let agree = match (&ours, &theirs) {
        (Outcome::Hello(hello), Found::Hello(theirs)) => match (hello.name, theirs) {
            (Some(name), Some(theirs)) => name.eq_ignore_ascii_case(theirs.as_bytes()),
            // An address is no name; rustls passes over it.
            (Some(name), None) => matches!(ServerName::try_from(name), Ok(ServerName::IpAddress(_))),
            (None, theirs) => theirs.is_none(),
        },
        // It has the whole record, as we have.
        (Outcome::Hello(_), Found::Wait) => false,
        (Outcome::Partial, Found::Hello(_)) => false,
        (Outcome::Refused, _) | (_, Found::Refused) | (Outcome::Partial, Found::Wait) => true,
    };
    assert!(agree, "{ours:?}, and rustls says {theirs:?}");
}

fuzz_target!(|data: &[u8]| {
    match data {
        [22, ..] => {
            check(data);
            if let Some(flight) = repaired(data) {
                check(&flight);
            }
        }
        _ => {
            if let Ok(flight) = flight(&mut Unstructured::new(data)) {
                check(&flight);
            }
        }
    }
});
