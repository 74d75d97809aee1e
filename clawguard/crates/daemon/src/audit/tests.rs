//! The audit chain on disk, and the event chains with it.

use evidence::events::{Runs, Told};

use std::mem;

use super::*;

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("clawguard-audit-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

fn key() -> PrivateKey {
    PrivateKey::from_seed(&[3; 32])
}

fn open(path: &Path, rotate_at: u64) -> (AuditLog, Found) {
    AuditLog::open(path, key(), rotate_at).unwrap()
}

fn write(log: &mut AuditLog, count: u64) {
    for n in 0..count {
        log.append(Kind::Flip, &json!({ "n": n })).unwrap().wait().unwrap();
    }
}

fn verify(path: &Path) -> Result<Verifier, Broken> {
    let mut verifier = Verifier::new(Some(key().did()));
    for (_, file) in files(path).unwrap() {
        let text = fs::read(file).unwrap();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            verifier.read(line)?;
        }
    }
    Ok(verifier)
}

#[test]
fn the_chain_goes_on_after_a_restart_and_over_several_files() {
    let path = directory("files");
    let (mut log, _) = open(&path, 2000);
    write(&mut log, 40);
    drop(log);
    let (mut log, found) = open(&path, 2000);
    assert!(found_record(&found).is_none());
    write(&mut log, 40);
    log.checkpoint().unwrap();
    assert!(files(&path).unwrap().len() > 3);
    let verifier = verify(&path).unwrap();
    assert_eq!((verifier.head().next, verifier.unsealed()), (log.records(), 0));
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn what_the_disk_once_refused_to_keep_is_not_acknowledged_later() {
    let path = directory("refused");
    let (mut log, _) = open(&path, 1 << 20);
    write(&mut log, 2);
    let [first, second] = [1, 2].map(|n| log.append(Kind::Flip, &json!({ "n": n })).unwrap());
    // A device that syncs nothing, for a moment.
    let whole = mem::replace(&mut log.sync.state.lock().unwrap().file, File::open("/dev/null").unwrap());
    assert!(second.wait().is_err());
    log.sync.state.lock().unwrap().file = whole;
    assert!(first.wait().is_err());
    write(&mut log, 2);
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_record_torn_by_a_power_cut_is_cut_off_and_told() {
    let path = directory("torn");
    let (mut log, _) = open(&path, 1 << 20);
    write(&mut log, 5);
    drop(log);
    let file = path.join(name(1));
    let text = fs::read(&file).unwrap();
    fs::write(&file, &text[..text.len() - 20]).unwrap();
    let (mut log, found) = open(&path, 1 << 20);
    assert_eq!(log.records(), 4);
    let (bytes, kept) = found.torn.clone().unwrap();
    assert_eq!(fs::metadata(kept).unwrap().len(), bytes);
    write(&mut log, 1);
    assert_eq!(verify(&path).unwrap().head().next, 5);
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_changed_record_is_told_at_start_and_stays_to_be_found() {
    let path = directory("changed");
    let (mut log, _) = open(&path, 1 << 20);
    write(&mut log, 5);
    drop(log);
    let file = path.join(name(1));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"n\":2", "\"n\":7")).unwrap();
    let (mut log, found) = open(&path, 1 << 20);
    assert_eq!(found.broken.as_ref().unwrap().seq, 3);
    write(&mut log, 1);
    assert_eq!(verify(&path).unwrap_err().seq, 3);
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn records_that_are_written_at_once_are_a_whole_chain_with_its_checkpoints() {
    let path = directory("batch");
    let (mut log, _) = open(&path, 20_000);
    let bodies: Vec<Value> = (0..1000).map(|n| json!({ "n": n })).collect();
    log.append_all(Kind::Call, &bodies).unwrap();
    log.append_all::<Value>(Kind::Call, &[]).unwrap();
    write(&mut log, 1);
    let verifier = verify(&path).unwrap();
    assert_eq!(verifier.head().next, log.records());
    assert!(verifier.checkpoints() >= 3 && files(&path).unwrap().len() > 1);
    // What the disk refuses waits, in its order.
    log.file = File::open(path.join(name(1))).unwrap();
    assert!(log.append_all(Kind::Call, &bodies[..3]).is_err());
    assert_eq!(log.owed(), 3);
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn many_writers_share_a_sync_and_every_acknowledged_record_is_there() {
    let path = directory("group");
    let (log, _) = open(&path, 1 << 20);
    let log = Mutex::new(log);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..25 {
                    let ticket = log.lock().unwrap().append(Kind::Flip, &json!({ "n": n })).unwrap();
                    ticket.wait().unwrap();
                }
            });
        }
    });
    assert_eq!(verify(&path).unwrap().head().next, 200);
    fs::remove_dir_all(path).unwrap();
}

/// Records of two jobs, of which one ends, and of nobody.
fn happen(log: &mut AuditLog, round: u64) -> Vec<Event> {
    let job = format!("j{round}");
    let mut events = Vec::new();
    let mut event = |log: &mut AuditLog, kind, body: Value| {
        let (ticket, event) = log.append_event(kind, &body, &job).unwrap();
        drop(ticket);
        events.extend(event);
    };
    let start = json!({ "job": job, "agent": "a", "wpc_hash": "c", "own_contract": false });
    event(log, Kind::JobStart, start);
    drop(log.append(Kind::Configuration, &json!({ "n": round })).unwrap());
    event(log, Kind::Model, json!({ "job": job, "agent": "a", "decision": "allowed", "model": "m" }));
    let calls: Vec<Value> = (0..3).map(|n| json!({ "job": job, "decision": "allowed", "n": n })).collect();
    log.append_all(Kind::Call, &calls).unwrap();
    event(log, Kind::Model, json!({ "job": job, "agent": "a", "outcome": "ok" }));
    if round.is_multiple_of(2) {
        event(log, Kind::JobEnd, json!({ "job": job }));
    }
    events
}

/// What the records say of themselves.
fn derived(path: &Path) -> Vec<Event> {
    let mut runs = Runs::default();
    let mut events = Vec::new();
    for (_, file) in files(path).unwrap() {
        for line in fs::read(file).unwrap().split_inclusive(|byte| *byte == b'\n') {
            events.extend(runs.take(&Told::of_line(line).unwrap()).into_iter().map(|made| made.event));
        }
    }
    events
}

#[test]
fn an_event_has_the_hash_that_its_record_gives_whatever_starts_and_files_lie_between() {
    let path = directory("heads");
    let mut told = Vec::new();
    for round in 0..12 {
        let (mut log, _) = open(&path, 3000);
        told.extend(happen(&mut log, round));
        let (run, events) = log.run(&format!("j{round}")).unwrap();
        assert!(run.starts_with(&format!("run_j{round}_")) && events >= 6, "{run}: {events}");
        // One that was there before the starts in between goes on.
        let goes_on = json!({ "job": "j1", "agent": "a", "decision": "allowed", "model": "m" });
        told.extend(log.append_event(Kind::Model, &goes_on, "j1").unwrap().1);
    }
    assert_eq!(told.len(), 12 * 3 + 6 + 11);
    assert!(files(&path).unwrap().len() > 3);
    let derived = derived(&path);
    assert!(told.iter().all(|event| derived.contains(event)));
    // A state that is not whole is no state: the records are read from further back.
    let (last, _) = files(&path).unwrap().pop().unwrap();
    let state = path.join(format!("events-{last:06}.json"));
    assert!(state.exists());
    fs::write(&state, "{").unwrap();
    let (mut log, _) = open(&path, 1 << 20);
    let again = happen(&mut log, 1);
    assert!(again.iter().all(|event| self::derived(&path).contains(event)));
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_record_that_the_disk_refuses_is_no_event() {
    let path = directory("refused");
    let (mut log, _) = open(&path, 1 << 20);
    let start = json!({ "job": "j", "agent": "a" });
    drop(log.append(Kind::JobStart, &start).unwrap());
    let before = log.run("j").map(|(run, events)| (run.to_owned(), events));
    let good = mem::replace(&mut log.file, File::open(path.join(name(1))).unwrap());
    assert!(log.append_event(Kind::Model, &json!({ "job": "j", "decision": "allowed" }), "j").is_err());
    assert_eq!(log.run("j").map(|(run, events)| (run.to_owned(), events)), before);
    log.file = good;
    let body = json!({ "job": "j", "decision": "allowed" });
    let (_, event) = log.append_event(Kind::Model, &body, "j").unwrap();
    assert_eq!(derived(&path).last(), event.as_ref());
    // Nobody's run, nobody's event.
    assert!(log.append_event(Kind::Model, &json!({ "job": "k", "decision": "allowed" }), "k").unwrap().1.is_none());
    fs::remove_dir_all(path).unwrap();
}
