use proptest::prelude::*;

use super::*;

/// What a stream says, taken in pieces that end at these places, and how it ends.
fn read_cut(stream: &[u8], limit: usize, cuts: &[usize]) -> (Vec<Event>, Result<u64, Flaw>) {
    let mut decoder = Decoder::new(limit);
    let mut events = Vec::new();
    let mut from = 0;
    for to in cuts.iter().map(|cut| (*cut).min(stream.len())).chain([stream.len(), stream.len()]) {
        if to < from {
            continue;
        }
        match decoder.push(&stream[from..to]) {
            Ok(more) => events.extend(more),
            Err(flaw) => {
                assert_eq!(decoder.push(b"data: x\n\n"), Err(flaw), "a flawed stream stays so");
                return (events, Err(flaw));
            }
        }
        from = to;
    }
    (events, Ok(decoder.comments()))
}

fn read(stream: &str) -> Vec<Event> {
    let (events, ended) = read_cut(stream.as_bytes(), 4096, &[]);
    assert!(ended.is_ok());
    events
}

fn message(data: &str) -> Event {
    Event::message(data.into())
}

#[test]
fn the_examples_of_the_standard_read_as_it_says() {
    assert_eq!(read("data: YHOO\ndata: +2\ndata: 10\n\n"), [message("YHOO\n+2\n10")]);
    assert_eq!(
        read(": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n"),
        [
            Event { id: Some("1".into()), ..Event::message("first event".into()) },
            Event { id: Some("".into()), ..Event::message("second event".into()) },
        ]
    );
    assert_eq!(read("data\n\ndata\ndata\n\ndata:"), [message(""), message("\n")]);
    assert_eq!(read("data:test\n\ndata: test\n\n"), [message("test"), message("test")]);
}

#[test]
fn lines_end_in_any_of_three_ways_and_each_way_alone() {
    for end in ["\n", "\r", "\r\n"] {
        let stream = format!("event: add{end}data: 1{end}data: 2{end}{end}data: 3{end}{end}");
        let add = Event { event: Some("add".into()), ..Event::message("1\n2".into()) };
        assert_eq!(read(&stream), [add, message("3")], "{end:?}");
    }
    // U+000A then U+000D are two ends of lines.
    assert_eq!(read("data: 1\n\rdata: 2\n\n"), [message("1"), message("2")]);
    // Nothing else ends one.
    assert_eq!(read("data: a\u{85}b\u{2028}c\u{b}d\0e\n\n"), [message("a\u{85}b\u{2028}c\u{b}d\0e")]);
}

#[test]
fn a_return_ends_the_event_at_once() {
    let mut decoder = Decoder::new(100);
    assert_eq!(decoder.push(b"data: 1\r\n\r").unwrap(), [message("1")]);
    assert_eq!(decoder.push(b"\ndata: 2\r\n\r\n").unwrap(), [message("2")]);
    // And what belongs to it and comes later ends nothing.
    assert_eq!(decoder.push(b"data: 3\r").unwrap(), []);
    assert_eq!(decoder.push(b"\ndata: 4\r\n\r\n").unwrap(), [message("3\n4")]);
    assert!(!decoder.is_amid());
    assert_eq!(decoder.push(b"data").unwrap(), []);
    assert!(decoder.is_amid());
}

#[test]
fn a_byte_order_mark_is_skipped_before_the_first_line_only() {
    assert_eq!(read("\u{feff}data: 1\n\n\u{feff}data: 2\n\ndata: 3\n\n"), [message("1"), message("3")]);
    assert_eq!(read("\u{feff}\u{feff}data: 1\n\ndata: 2\n\n"), [message("2")]);
    assert_eq!(read("\n\u{feff}data: 1\n\n"), []);
}

#[test]
fn fields_are_what_the_standard_says() {
    let event = |stream: &str| match &read(stream)[..] {
        [event] => event.clone(),
        events => panic!("{stream:?}: {events:?}"),
    };
    assert_eq!(event("data: x\nid: a\0b\n\n").id, None);
    assert_eq!(event("id: 1\nid: a\0b\ndata: x\n\n").id.as_deref(), Some("1"));
    assert_eq!(event("retry: 3000\ndata: x\n\n").retry, Some(3000));
    assert_eq!(
        event("retry: 5\nretry: +3\nretry: 1s\nretry: \nretry:  2\nretry: 99999999999999999999\ndata: x\n\n").retry,
        Some(5)
    );
    assert_eq!(event("event: message\ndata: x\n\n").event, None);
    assert_eq!(event("event: a\nevent:\ndata: x\n\n").event, None);
    // Names are told apart by case and by space.
    for stream in ["Data: x\n\n", " data: x\n\n", "data : x\n\n", "dat\n\n", "event: add\n\n", "\n\n\n"] {
        assert_eq!(read(stream), [], "{stream:?}");
    }
}

#[test]
fn an_event_without_data_still_gives_its_id() {
    assert_eq!(read("id: 7\nretry: 10\n\n"), [Event { id: Some("7".into()), retry: Some(10), ..Event::default() }]);
    assert_eq!(read("id: 7\ndata:\n\n"), [Event { id: Some("7".into()), ..Event::message(String::new()) }]);
}

#[test]
fn an_event_is_bounded_however_it_is_made_long() {
    let long = |stream: String| read_cut(stream.as_bytes(), 100, &[]).1;
    let flaw = Err(Flaw::Long { limit: 100 });
    assert_eq!(long(format!("data: {}\n\n", "x".repeat(92))), Ok(0));
    assert_eq!(long(format!("data: {}\n\n", "x".repeat(93))), flaw);
    assert_eq!(long("x".repeat(101)), flaw);
    assert_eq!(long(format!(":{}\n", "x".repeat(100))), flaw);
    assert_eq!(long("data:\n".repeat(17)), flaw);
    assert_eq!(long("nobody knows\n".repeat(8)), flaw);
    assert_eq!(long("id: 1\n".repeat(17)), flaw);
    // Neither many events nor many comments are a long one.
    assert_eq!(long("data: 1\n\n".repeat(100)), Ok(0));
    assert_eq!(long(":\n".repeat(100)), Ok(100));
    // What came before is given out.
    assert_eq!(read_cut(format!("data: 1\n\n{}", "x".repeat(101)).as_bytes(), 100, &[]).0, [message("1")]);
}

#[test]
fn bytes_that_are_no_text_end_the_stream() {
    let (items, ended) = read_cut(b"data: 1\n\ndata: \xff\n\ndata: 2\n\n", 100, &[]);
    assert_eq!((items, ended), (vec![message("1")], Err(Flaw::Encoding)));
    assert_eq!(read_cut(b": \xc3\n", 100, &[]).1, Err(Flaw::Encoding));
}

#[test]
fn what_would_read_as_something_else_is_not_written() {
    let mut bytes = Vec::new();
    let data = || "1\r\n2\r3\n".into();
    Event { id: Some("1\ndata: x".into()), event: Some("a\rb".into()), data: data(), retry: None }.write(&mut bytes);
    Event { id: Some("a\0".into()), ..message("y") }.write(&mut bytes);
    bytes.extend_from_slice(KEEP_ALIVE);
    message("{}").write(&mut bytes);
    assert_eq!(read_cut(&bytes, 100, &[]), (vec![message("1\n2\n3\n"), message("y"), message("{}")], Ok(1)));
}

/// Streams of what streams are made of.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "data",
        "data:",
        "data: ",
        "id",
        "id: ",
        "event: ",
        "retry: ",
        ":",
        ": ",
        " ",
        "\n",
        "\n",
        "\n\n",
        "\r",
        "\r\n",
        "\r\n\r\n",
        "\0",
        "\u{feff}",
        "é",
        "😀",
        "\u{2028}",
        "1",
        "message",
        "{\"a\":1}",
    ];
    let word = prop_oneof![
        9 => prop::sample::select(words.map(|word| word.as_bytes().to_vec()).to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..3),
    ];
    prop::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn however_a_stream_is_cut_it_says_the_same(
        stream in any_stream(), limit in 1_usize..200, mut cuts in prop::collection::vec(0_usize..200, 0..30)
    ) {
        cuts.sort_unstable();
        let whole = read_cut(&stream, limit, &[]);
        prop_assert_eq!(&read_cut(&stream, limit, &cuts), &whole);
        let each: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(&read_cut(&stream, limit, &each), &whole);
    }

    #[test]
    fn what_is_written_reads_the_same(stream in any_stream()) {
        let (events, _) = read_cut(&stream, 4096, &[]);
        let written: Vec<u8> = events.iter().flat_map(Event::to_bytes).collect();
        prop_assert_eq!(read_cut(&written, 1 << 16, &[]), (events, Ok(0)));
    }
}
