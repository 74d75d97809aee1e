//! No message stops the guard's reader, and what is answered is an answer to what was asked, fits where it goes, and is itself
//! answered by nobody.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::RecordType,
};
use libfuzzer_sys::fuzz_target;
use question::{Question, Read, Reply, read};

// The gateway is an executable; of what it reads, this file needs nothing else of it.
#[path = "../../clawguard/crates/gateway/src/names/question.rs"]
mod question;

fn check_name(question: &Question) {
    if let Some(name) = question.name() {
        assert!(!name.is_empty() && name.len() <= 253, "{name}");
        let fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        assert!(name.bytes().all(fit), "{name}");
        assert!(name.split('.').all(|label| !label.is_empty() && label.len() <= 63), "{name}");
        assert_eq!(question.shown(), name);
    }
    assert!(question.shown().is_ascii() && question.shown().len() <= 1024);
}

fn check_answer(question: &Question, data: &[u8], reply: &Reply, room: usize) {
    let answer = question.answer(reply, room).expect("every question can be answered");
    assert!(answer.len() <= room, "{} bytes for {room}", answer.len());
    let (asked, told) = (Message::from_vec(data).unwrap(), Message::from_vec(&answer).unwrap());
    assert_eq!((told.metadata.id, told.metadata.message_type), (asked.metadata.id, MessageType::Response));
    assert_eq!((told.queries.len(), &told.queries), (1, &asked.queries));
    assert!(told.queries[0].name.eq_case(&asked.queries[0].name), "its case");
    assert_eq!(told.edns.is_some(), asked.edns.is_some());
    assert!(told.authorities.is_empty() && told.additionals.is_empty());
    let address = matches!(question.kind(), RecordType::A | RecordType::AAAA);
    match reply {
        Reply::Addresses(addresses, _) if address && !told.metadata.truncation => {
            assert_eq!(told.answers.len(), addresses.len() / 2, "those of its family");
            assert!(told.answers.iter().all(|record| record.name == asked.queries[0].name));
        }
        _ => assert!(told.answers.is_empty()),
    }
    if matches!(reply, Reply::Prohibited | Reply::Missing) {
        assert_eq!(told.metadata.response_code, ResponseCode::NXDomain);
    }
    assert!(matches!(read(&answer), Read::Nothing));
}

fuzz_target!(|data: &[u8]| {
    let question = match read(data) {
        Read::Question(question) => question,
        Read::Error(answer) => {
            assert_eq!((answer.len(), &answer[..2]), (12, &data[..2]));
            assert!(matches!(read(&answer), Read::Nothing));
            return;
        }
        Read::Nothing => return,
    };
    check_name(&question);
    let addresses = |count: u8| {
        let v4 = (0..count).map(|last| IpAddr::from(Ipv4Addr::new(203, 0, 113, last)));
        let v6 = (0..count).map(|last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())));
        Reply::Addresses(v4.chain(v6).collect(), 300)
    };
    let replies = [
        addresses(0),
        addresses(1),
        addresses(64),
        Reply::Missing,
        Reply::Prohibited,
        Reply::Failed,
        Reply::Refused,
        Reply::BadVersion,
    ];
    for reply in replies.iter().chain(question.settled().as_ref()) {
        for room in [question.room(), usize::from(u16::MAX)] {
            check_answer(&question, data, reply, room);
        }
    }
});
