//! What jobs are promised, and what nobody is told.

use hickory_proto::rr::{
    DNSClass,
    rdata::opt::{EdnsCode, EdnsOption},
};

use super::*;

#[tokio::test]
async fn nothing_is_told_before_it_was_learnt() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    rig.daemon.learning.forget_permits(1_000_000);
    // Two at once, and one from what is known by then.
    let question = question("api.example", RecordType::A).to_vec().unwrap();
    let clients = [rig.client(7).await, rig.client(7).await, rig.client(7).await];
    for (client, pause) in clients.iter().zip([0, 300, 0]) {
        client.send(&question).await.unwrap();
        sleep(Duration::from_millis(pause)).await;
    }
    for client in &clients {
        assert_eq!(receive(client, Duration::from_millis(100)).await, None);
    }
    assert_eq!((rig.daemon.learnt().len(), resolver.asked()), (3, 1), "each learns its own");
    for answered in 1..=3 {
        rig.daemon.learning.add_permits(1);
        sleep(Duration::from_millis(100)).await;
        let mut told = 0;
        for client in &clients {
            told += usize::from(client.try_recv(&mut [0; 512]).is_ok());
        }
        assert_eq!(told, 1, "one answer for each that was learnt, now number {answered}");
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_a_failure() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    *lock(&rig.daemon.learnt) = Some(Named::Failed);
    assert_eq!(rig.addresses(7, "api.example").await, Err(ResponseCode::ServFail));
    *lock(&rig.daemon.learnt) = Some(Named::Resolve { wildcard: false, key: 1 });
    assert_eq!(rig.addresses(7, "api.example").await, Err(ResponseCode::ServFail), "no answer to what was asked");
    rig.daemon.says("other.example", Named::Failed);
    assert_eq!(rig.addresses(7, "other.example").await, Err(ResponseCode::ServFail));
    // A daemon that says nothing.
    rig.daemon.learning.forget_permits(1_000_000);
    assert_eq!(rig.addresses(7, "api.example").await, Err(ResponseCode::ServFail));
}

#[tokio::test]
async fn what_a_slots_former_job_was_answered_is_asked_for_anew() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    assert!(rig.addresses(7, "api.example").await.is_ok());
    assert!(rig.addresses(7, "api.example").await.is_ok());
    assert_eq!(resolver.asked(), 1);
    rig.daemon.says("api.example", Named::Resolve { wildcard: false, key: 2 });
    assert!(rig.addresses(7, "api.example").await.is_ok());
    assert_eq!(resolver.asked(), 2);
}

#[tokio::test]
async fn a_refused_name_does_not_exist_and_nobody_is_asked() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    rig.daemon.says("evil.example", Named::Refused);
    for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::TXT, RecordType::ANY] {
        let answer = rig.ask(7, "evil.example", kind).await;
        assert_eq!(told(&answer), Err(ResponseCode::NXDomain));
        let why = answer.edns.unwrap().option(EdnsCode::Unknown(15)).cloned();
        assert_eq!(why, Some(EdnsOption::Unknown(15, vec![0, 18])), "prohibited");
    }
    // Who speaks no EDNS is not spoken to in it.
    let mut plain = question("evil.example", RecordType::A);
    plain.edns = None;
    let answer = rig.send(7, &plain.to_vec().unwrap()).await.unwrap();
    assert_eq!((answer.metadata.response_code, answer.edns), (ResponseCode::NXDomain, None));
    assert_eq!(resolver.asked(), 0);
    // What was allowed when it was looked up, and is no more.
    *lock(&rig.daemon.learnt) = Some(Named::Refused);
    assert_eq!(rig.addresses(7, "api.example").await, Err(ResponseCode::NXDomain));
}

#[tokio::test]
async fn only_what_was_opened_is_told() {
    let resolver =
        Resolver::with(|query| ["10.0.0.1", "203.0.113.1", "203.0.113.2"].map(|a| address(&query.name, 300, a)).into())
            .await;
    let rig = Rig::new(&[resolver.at]).await;
    let open = ["203.0.113.2", "2001:db8::2"].map(|address| address.parse().unwrap());
    *lock(&rig.daemon.learnt) = Some(Named::Open { addresses: open.into(), ttl_seconds: 77 });
    let answer = rig.ask(7, "api.example", RecordType::A).await;
    assert_eq!(told(&answer).unwrap(), ["203.0.113.2"]);
    assert_eq!(answer.answers[0].ttl, 77);
    assert_eq!(rig.daemon.learnt()[0].1.len(), 3, "the daemon judges them all");
}

#[tokio::test]
async fn what_one_job_asked_another_does_not_notice() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    for (job, asked) in [(7, 1), (7, 1), (8, 2), (8, 2)] {
        assert_eq!(rig.addresses(job, "api.example").await.unwrap(), ["203.0.113.1"]);
        assert_eq!(resolver.asked(), asked);
    }
    let jobs: Vec<u32> = rig.daemon.learnt().iter().map(|(job, ..)| *job).collect();
    assert_eq!(jobs, [7, 7, 8, 8], "learnt each time");
}

#[tokio::test]
async fn the_same_question_at_once_is_asked_once() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    let (one, two, other) =
        tokio::join!(rig.addresses(7, "api.example"), rig.addresses(7, "API.example"), rig.addresses(8, "api.example"));
    assert!(one.is_ok() && one == two && one == other);
    assert_eq!(resolver.asked(), 2, "one question a job");
    assert_eq!(rig.daemon.learnt().len(), 3);
}

#[tokio::test]
async fn no_keys_no_texts_and_no_hints_are_told() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    rig.daemon.says("fixed.example", Named::Open { addresses: vec!["203.0.113.9".parse().unwrap()], ttl_seconds: 60 });
    for name in ["api.example", "fixed.example"] {
        for kind in [RecordType::HTTPS, RecordType::SVCB, RecordType::TXT, RecordType::MX, RecordType::ANY] {
            assert_eq!(told(&rig.ask(7, name, kind).await), Ok(vec![]), "{name} {kind}");
        }
    }
    assert_eq!(resolver.asked(), 0);
    assert_eq!(rig.daemon.asked(|ask| matches!(ask, Ask::Name { kind: 65, .. })), 2);
}

#[tokio::test]
async fn fixed_addresses_are_told_without_a_resolver() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    let addresses = ["203.0.113.9", "2001:db8::9"].map(|address| address.parse().unwrap()).to_vec();
    rig.daemon.says("crm.example", Named::Open { addresses, ttl_seconds: 60 });
    assert_eq!(rig.addresses(7, "crm.example").await.unwrap(), ["203.0.113.9"]);
    assert_eq!(told(&rig.ask(7, "crm.example", RecordType::AAAA).await).unwrap(), ["2001:db8::9"]);
    assert_eq!((resolver.asked(), rig.daemon.learnt().len()), (0, 0));
}

#[tokio::test]
async fn without_resolvers_nothing_is_answered() {
    let rig = Rig::new(&[]).await;
    assert_eq!(rig.addresses(7, "api.example").await, Err(ResponseCode::ServFail));
}

#[tokio::test]
async fn the_question_comes_back_as_it_was_asked() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    let answer = rig.ask(7, "Api.EXAMPLE", RecordType::A).await;
    assert_eq!(answer.queries[0].name.to_ascii(), "Api.EXAMPLE.");
    assert_eq!(answer.answers[0].name.to_ascii(), "Api.EXAMPLE.");
    assert_eq!(rig.daemon.asked(|ask| matches!(ask, Ask::Name { name, .. } if name == "api.example")), 1);
}

#[tokio::test]
async fn over_tcp_many_questions_and_long_answers() {
    let many = |query: &Query| (1..=100).map(|n| address(&query.name, 300, &format!("2001:db8::{n}"))).collect();
    let resolver = Resolver::with(many).await;
    let rig = Rig::new(&[resolver.at]).await;
    let answer = rig.ask(7, "api.example", RecordType::AAAA).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty(), "too long for UDP");
    let mut stream = TcpStream::connect(rig.at(7)).await.unwrap();
    for name in ["api.example", "www.example"] {
        let question = question(name, RecordType::AAAA).to_vec().unwrap();
        stream.write_all(&framed(&question)).await.unwrap();
        let answer = read_framed(&mut stream).await.unwrap();
        assert_eq!((answer.metadata.truncation, answer.answers.len()), (false, 48));
    }
    assert!(rig.daemon.learnt().iter().all(|(job, ..)| *job == 7));
}

#[tokio::test]
async fn a_job_has_so_many_connections_and_leaves_others_theirs() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(TcpStream::connect(rig.at(7)).await.unwrap());
    }
    let question = framed(&question("api.example", RecordType::A).to_vec().unwrap());
    let mut ninth = TcpStream::connect(rig.at(7)).await.unwrap();
    // It may be hung up on before it says anything.
    let _ = ninth.write_all(&question).await;
    assert!(read_framed(&mut ninth).await.is_err());
    let mut other = TcpStream::connect(rig.at(8)).await.unwrap();
    other.write_all(&question).await.unwrap();
    assert!(read_framed(&mut other).await.is_ok());
}

#[tokio::test]
async fn what_is_no_question_is_an_error() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    let good = question("api.example", RecordType::A);
    let bytes = good.to_vec().unwrap();
    let code = async |message: Vec<u8>| rig.send(7, &message).await.unwrap().metadata.response_code;

    assert_eq!(code(bytes[..20].to_vec()).await, ResponseCode::FormErr, "cut off");
    assert_eq!(code(bytes[..12].to_vec()).await, ResponseCode::FormErr, "no question");
    let mut two = good.clone();
    two.add_query(Query::query(fqdn("b.example"), RecordType::A));
    assert_eq!(code(two.to_vec().unwrap()).await, ResponseCode::FormErr);
    let mut none = good.clone();
    none.queries.clear();
    assert_eq!(code(none.to_vec().unwrap()).await, ResponseCode::FormErr);
    let mut update = bytes.clone();
    update[2] |= 5 << 3;
    assert_eq!(code(update).await, ResponseCode::NotImp);
    let mut chaos = good.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(chaos.to_vec().unwrap()).await, ResponseCode::Refused);
    let mut newer = good.clone();
    newer.edns.as_mut().unwrap().set_version(1);
    assert_eq!(code(newer.to_vec().unwrap()).await, ResponseCode::BADSIG, "which has BADVERS' number");

    // An answer is not answered, nor is what has no number.
    let client = rig.client(7).await;
    let mut answer = bytes.clone();
    answer[2] |= 0x80;
    client.send(&answer).await.unwrap();
    client.send(&bytes[..11]).await.unwrap();
    assert_eq!(receive(&client, Duration::from_millis(200)).await, None);
    assert_eq!(lock(&rig.daemon.asked).len(), 1, "the daemon is not asked about any of it");
}

#[tokio::test]
async fn what_is_no_name_of_a_host_is_refused_and_recorded() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    for labels in [vec![&b"a.b"[..], b"example"], vec![b"\0\xff", b"example"], vec![b"*", b"example"], vec![]] {
        let mut message = question("x.example", RecordType::A);
        message.queries[0].set_name(Name::from_labels(labels).unwrap());
        let answer = rig.send(7, &message.to_vec().unwrap()).await.unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    }
    sleep(Duration::from_millis(1200)).await;
    assert_eq!((resolver.asked(), rig.daemon.excess(7)), (0, 4));
}

#[tokio::test]
async fn names_below_a_wildcard_carry_little_out() {
    let resolver = Resolver::plain().await;
    let rig = Rig::limited(&[resolver.at], 1000, 3).await;
    let tunnel = "mv4gc3lqnrssazdborqsa5dimf2canbamnqw64tsmvzq.t.example";
    for name in [tunnel, "a.t.example", "b.t.example", "c.t.example", "d.t.example"] {
        rig.daemon.says(name, Named::Resolve { wildcard: true, key: 1 });
    }
    assert_eq!(rig.addresses(7, tunnel).await, Err(ResponseCode::NXDomain));
    assert_eq!(resolver.asked(), 0);
    for name in ["a.t.example", "b.t.example", "c.t.example", "a.t.example"] {
        assert!(rig.addresses(7, name).await.is_ok(), "{name}");
    }
    assert_eq!(rig.addresses(7, "d.t.example").await, Err(ResponseCode::NXDomain));
    assert!(rig.addresses(8, "d.t.example").await.is_ok(), "another job has its own");
    assert!(rig.addresses(7, "www.example").await.is_ok(), "what is named in full is not limited");
    sleep(Duration::from_millis(1200)).await;
    assert_eq!(rig.daemon.excess(7), 2);
    lock(&rig.daemon.names).remove(tunnel);
    assert!(rig.addresses(7, tunnel).await.is_ok(), "nor is what is named in full judged by its look");
}

#[tokio::test]
async fn what_came_from_outside_of_every_job_is_dropped() {
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[resolver.at]).await;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    client.connect((Ipv4Addr::LOCALHOST, rig.port)).await.unwrap();
    client.send(&question("api.example", RecordType::A).to_vec().unwrap()).await.unwrap();
    assert_eq!(receive(&client, Duration::from_millis(300)).await, None);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, rig.port)).await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert_eq!(lock(&rig.daemon.asked).len(), 1);
    assert!(rig.addresses(7, "api.example").await.is_ok());
}

/// One job asks 10 000 questions a second, while another asks a few.
#[tokio::test]
async fn a_job_that_floods_stops_no_other() {
    let resolver = Resolver::plain().await;
    let rig = Rig::limited(&[resolver.at], 10, 1000).await;
    let began = tokio::time::Instant::now();
    let (at, enough) = (rig.at(7), Arc::new(AtomicBool::new(false)));
    let flood = std::thread::spawn({
        let enough = Arc::clone(&enough);
        move || {
            let client = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            client.connect(at).unwrap();
            let question = question("flood.example", RecordType::A).to_vec().unwrap();
            while !enough.load(Ordering::SeqCst) {
                for _ in 0..100 {
                    client.send(&question).unwrap();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    });
    for number in 0..10 {
        let client = rig.client(8).await;
        let question = question(&format!("{number}.example"), RecordType::A).to_vec().unwrap();
        let mut answer = None;
        // As every client does: datagrams are lost where there are too many.
        for _ in 0..4 {
            client.send(&question).await.unwrap();
            answer = receive(&client, Duration::from_secs(1)).await;
            if answer.is_some() {
                break;
            }
        }
        assert!(answer.is_some_and(|answer| told(&answer).is_ok()), "number {number}");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(!flood.is_finished(), "all the while");
    enough.store(true, Ordering::SeqCst);
    sleep(Duration::from_millis(1500)).await;
    let seconds = began.elapsed().as_secs() as usize;
    let told = rig.daemon.asked(|ask| matches!(ask, Ask::Excess { job: 7, .. }));
    assert!((1..=seconds + 1).contains(&told), "told once a second, not {told} times in {seconds} s");
    assert!(rig.daemon.excess(7) > 1000, "{} were too many", rig.daemon.excess(7));
    let learnt = rig.daemon.learnt().iter().filter(|(job, ..)| *job == 7).count();
    assert!(learnt <= 40 + 10 * (seconds + 1), "{learnt} were asked of the daemon in {seconds} s");
}
