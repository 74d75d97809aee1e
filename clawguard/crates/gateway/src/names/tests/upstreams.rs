//! What is made of resolvers' answers.

use hickory_proto::rr::rdata::SOA;

use super::*;

#[tokio::test]
async fn aliases_are_followed_and_not_told() {
    let resolver = Resolver::with(|query| {
        vec![
            address(&fqdn("c.example"), 120, fixed(query.query_type)),
            address(&fqdn("elsewhere.example"), 120, "203.0.113.66"),
            alias(&query.name, 600, "b.example"),
            alias(&fqdn("elsewhere.example"), 1, "a.example"),
            alias(&fqdn("b.example"), 90, "C.example"),
        ]
    })
    .await;
    let rig = Rig::new(&[resolver.at]).await;
    let answer = rig.ask(7, "a.example", RecordType::A).await;
    assert_eq!(told(&answer).unwrap(), ["203.0.113.1"]);
    assert_eq!(answer.answers[0].name, fqdn("a.example"));
    let (_, addresses, ttl) = rig.daemon.learnt().remove(0);
    assert_eq!(addresses, ["203.0.113.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(ttl, 90, "the shortest of the way");
}

#[tokio::test]
async fn aliases_in_a_circle_are_a_failure() {
    let resolver = Resolver::with(|_| {
        vec![alias(&fqdn("a.example"), 60, "b.example"), alias(&fqdn("b.example"), 60, "a.example")]
    })
    .await;
    let rig = Rig::new(&[resolver.at]).await;
    assert_eq!(rig.addresses(7, "a.example").await, Err(ResponseCode::ServFail));
}

#[tokio::test]
async fn answers_are_good_for_half_a_minute_to_a_day() {
    let resolver = Resolver::with(|query| {
        let ttl = if query.name == fqdn("short.example") { 0 } else { 10_000_000 };
        vec![address(&query.name, ttl, fixed(query.query_type))]
    })
    .await;
    let rig = Rig::new(&[resolver.at]).await;
    assert_eq!(rig.ask(7, "short.example", RecordType::A).await.answers[0].ttl, 30);
    assert_eq!(rig.ask(7, "long.example", RecordType::A).await.answers[0].ttl, 86_400);
    sleep(Duration::from_millis(1100)).await;
    let left = rig.ask(7, "short.example", RecordType::A).await.answers[0].ttl;
    assert!((20..30).contains(&left), "{left} is what is left of it");
    assert_eq!(resolver.asked(), 2);
}

#[tokio::test]
async fn that_there_is_nothing_is_learnt_and_kept_as_well() {
    let resolver = Resolver::new(|message, _| {
        let mut answer = answer_to(&message);
        if answer.queries[0].name == fqdn("missing.example") {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        let soa = SOA::new(fqdn("ns.example"), fqdn("host.example"), 1, 2, 3, 4, 60);
        answer.add_authority(Record::from_rdata(fqdn("example"), 3600, RData::SOA(soa)));
        vec![answer.to_vec().unwrap()]
    })
    .await;
    let rig = Rig::new(&[resolver.at]).await;
    for _ in 0..2 {
        assert_eq!(rig.addresses(7, "missing.example").await, Err(ResponseCode::NXDomain));
        assert_eq!(rig.addresses(7, "empty.example").await, Ok(vec![]));
    }
    assert_eq!(resolver.asked(), 2);
    assert_eq!(rig.daemon.learnt(), vec![(7, vec![], 60); 4]);
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let resolver = Resolver::new(|message, tcp| {
        let mut answer = answer_to(&message);
        if tcp {
            answer.add_answer(address(&message.queries[0].name, 300, "203.0.113.1"));
        } else {
            answer.add_answer(address(&message.queries[0].name, 300, "203.0.113.66"));
            answer.metadata.truncation = true;
        }
        vec![answer.to_vec().unwrap()]
    })
    .await;
    let rig = Rig::new(&[resolver.at]).await;
    assert_eq!(rig.addresses(7, "api.example").await.unwrap(), ["203.0.113.1"]);
}

#[tokio::test]
async fn what_does_not_fit_the_question_is_not_believed() {
    let resolver = Resolver::new(|message, _| {
        let forge = |change: &dyn Fn(&mut Message)| {
            let mut answer = answer_to(&message);
            answer.add_answer(address(&message.queries[0].name, 300, "203.0.113.66"));
            change(&mut answer);
            answer.to_vec().unwrap()
        };
        let mut right = answer_to(&message);
        right.add_answer(address(&message.queries[0].name, 300, "203.0.113.1"));
        vec![
            forge(&|answer| answer.metadata.id ^= 1),
            forge(&|answer| answer.queries[0].name = fqdn("other.example")),
            forge(&|answer| answer.queries[0].query_type = RecordType::AAAA),
            forge(&|answer| answer.queries.clear()),
            forge(&|answer| answer.metadata.message_type = MessageType::Query),
            vec![1, 2, 3],
            right.to_vec().unwrap(),
        ]
    })
    .await;
    let rig = Rig::new(&[resolver.at]).await;
    assert_eq!(rig.addresses(7, "api.example").await.unwrap(), ["203.0.113.1"]);
}

#[tokio::test]
async fn what_comes_from_elsewhere_is_not_believed() {
    let (socket, at) = Resolver::dead().await;
    let rig = Rig::new(&[at]).await;
    let forger = tokio::spawn(async move {
        let mut buffer = [0; 512];
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let message = Message::from_vec(&buffer[..length]).unwrap();
        let mut answer = answer_to(&message);
        answer.add_answer(address(&message.queries[0].name, 300, "203.0.113.66"));
        let elsewhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        elsewhere.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        answer.answers[0] = address(&message.queries[0].name, 300, "203.0.113.1");
        socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
    });
    assert_eq!(rig.addresses(7, "api.example").await.unwrap(), ["203.0.113.1"]);
    forger.await.unwrap();
}

#[tokio::test]
async fn each_question_has_a_number_and_a_port_of_its_own() {
    let (socket, at) = Resolver::dead().await;
    let rig = Rig::new(&[at]).await;
    let mut seen = std::collections::HashSet::new();
    for number in 0..8 {
        let asked = question(&format!("{number}.example"), RecordType::A).to_vec().unwrap();
        rig.client(7).await.send(&asked).await.unwrap();
        let mut buffer = [0; 512];
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let id = Message::from_vec(&buffer[..length]).unwrap().metadata.id;
        assert!(seen.insert((0, client.port())) && seen.insert((1, id)), "{seen:?}");
    }
}

#[tokio::test]
async fn a_resolver_that_fails_is_passed_over() {
    let (_held, dead) = Resolver::dead().await;
    let failing = Resolver::new(|message, _| {
        let mut answer = answer_to(&message);
        answer.metadata.response_code = ResponseCode::Refused;
        vec![answer.to_vec().unwrap()]
    })
    .await;
    let resolver = Resolver::plain().await;
    let rig = Rig::new(&[failing.at, dead, resolver.at]).await;
    assert_eq!(rig.addresses(7, "api.example").await.unwrap(), ["203.0.113.1"]);
}

#[tokio::test]
async fn when_no_resolver_answers_it_is_a_failure() {
    let (_held, dead) = Resolver::dead().await;
    let rig = Rig::new(&[dead]).await;
    let began = tokio::time::Instant::now();
    let (one, other) = tokio::join!(rig.addresses(7, "api.example"), rig.ask(7, "api.example", RecordType::TXT));
    assert_eq!(one, Err(ResponseCode::ServFail));
    assert!(began.elapsed() < Duration::from_secs(6), "two rounds");
    assert_eq!(told(&other), Ok(vec![]), "meanwhile the rest goes on");
    assert!(rig.daemon.learnt().is_empty());
}

#[tokio::test]
async fn questions_upstream_are_limited_for_each_job() {
    let (socket, dead) = Resolver::dead().await;
    let rig = Rig::new(&[dead]).await;
    let client = rig.client(7).await;
    for number in 0..100 {
        client.send(&question(&format!("{number}.example"), RecordType::A).to_vec().unwrap()).await.unwrap();
    }
    for _ in 0..68 {
        let answer = receive(&client, Duration::from_secs(1)).await.expect("an answer at once");
        assert_eq!(told(&answer), Err(ResponseCode::ServFail));
    }
    rig.client(8).await.send(&question("other.example", RecordType::A).to_vec().unwrap()).await.unwrap();
    let (mut asked, mut buffer) = (std::collections::HashSet::new(), [0; 512]);
    while !asked.contains("other.example.") {
        let length = timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await.unwrap().unwrap();
        asked.insert(Message::from_vec(&buffer[..length]).unwrap().queries[0].name.to_ascii());
    }
    assert_eq!(asked.len(), 33);
}
