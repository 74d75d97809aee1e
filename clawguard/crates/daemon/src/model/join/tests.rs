//! The join, held against made-up histories: nothing is told of those in which all fits, and every gap is found.

use proptest::prelude::*;

use super::*;

/// The key of its job.
const GATEWAY: u64 = 100;

fn told(key: u64, accepted: u64, empty: u64) -> ModelConnections {
    ModelConnections { slot: 1, key, accepted, empty }
}

fn models(models: u64) -> Counted {
    Counted { models, direct: 0 }
}

/// A gateway that listens, and a job of which the kernel counted three connections.
fn three() -> (Join, Instant) {
    let (mut join, now) = (Join::default(), Instant::now());
    join.listens(1, GATEWAY, &[]);
    assert_eq!(join.counted(7, models(3), now), []);
    (join, now)
}

#[test]
fn a_connection_that_the_gateway_does_not_tell_of_is_found_after_the_grace() {
    let (mut join, now) = three();
    assert_eq!(join.told(1, &told(7, 2, 0), Some(3)), None);
    assert_eq!(join.counted(7, models(3), now + GRACE / 2), []);
    assert_eq!(join.counted(7, models(3), now + GRACE), [Gap::Unreported(1)]);
    // Once.
    assert_eq!(join.counted(7, models(3), now + GRACE * 3), []);
    // And the next one again, even if the first is told late.
    assert_eq!(join.told(1, &told(7, 3, 0), Some(3)), None);
    assert_eq!(join.counted(7, models(4), now + GRACE * 4), []);
    assert_eq!(join.counted(7, models(4), now + GRACE * 5), [Gap::Unreported(1)]);
}

#[test]
fn a_connection_that_is_told_in_time_is_none_to_tell_of() {
    let (mut join, now) = three();
    assert_eq!(join.told(1, &told(7, 3, 0), Some(3)), None);
    assert_eq!(join.counted(7, models(3), now + GRACE * 2), []);
}

#[test]
fn what_the_gateway_makes_up_is_found_at_once() {
    let (mut join, _) = three();
    assert_eq!(join.told(1, &told(7, 5, 0), Some(3)), Some(Gap::Unseen(2)));
    assert_eq!(join.told(1, &told(7, 5, 0), Some(3)), None);
    assert_eq!(join.told(1, &told(7, 6, 0), Some(3)), Some(Gap::Unseen(1)));
    // A call of a job that called nobody.
    assert_eq!(join.called(1, 8, 1, Some(0)), Some(Gap::Unseen(1)));
    assert_eq!(join.called(1, 8, 1, Some(0)), None);
    assert_eq!(join.called(1, 7, 1, Some(3)), None);
    // Told once, it is made up still.
    assert!(join.is_made_up(1, 8, 0) && !join.is_made_up(1, 8, 1) && !join.is_made_up(1, 7, 3));
}

#[test]
fn a_gateway_that_listens_anew_has_nothing_forgotten_by_whichever_channel() {
    for channel in [1, 2] {
        for hangs_up in [false, true] {
            let (mut join, now) = three();
            if hangs_up {
                join.hung_up(1);
            }
            assert_eq!(join.listens(channel, GATEWAY, &[(7, 3)]), 0);
            assert_eq!(join.told(channel, &told(7, 1, 0), Some(3)), None);
            assert_eq!(join.counted(7, models(3), now + GRACE), [Gap::Unreported(2)]);
        }
    }
}

#[test]
fn a_gateway_without_a_channel_is_asked_for_its_connections_all_the_same() {
    let (mut join, now) = three();
    join.hung_up(1);
    assert_eq!(join.told(1, &told(7, 3, 0), Some(3)), None);
    assert_eq!(join.counted(7, models(3), now + GRACE), [Gap::Unreported(3)]);
    assert_eq!(join.ended(7, models(4), now + GRACE), []);
    assert_eq!(join.settled(now + GRACE + SETTLES * 2), [(7, vec![])]);
}

#[test]
fn a_call_of_which_nothing_was_told_is_found_when_its_job_is_over() {
    let (mut join, now) = three();
    assert_eq!(join.called(1, 7, 1, Some(3)), None);
    assert_eq!(join.told(1, &told(7, 3, 1), Some(3)), None);
    assert_eq!(join.ended(7, models(3), now), []);
    assert_eq!(join.settled(now + SETTLES), []);
    assert_eq!(join.settled(now + SETTLES * 2), [(7, vec![Gap::Untold(1)])]);
    assert_eq!(join.settled(now + SETTLES * 3), []);
}

#[test]
fn what_is_told_late_of_a_job_that_is_gone_is_taken_for_what_it_is() {
    let (mut join, now) = three();
    assert_eq!(join.told(1, &told(7, 3, 0), Some(3)), None);
    assert_eq!(join.ended(7, models(3), now + GRACE), []);
    // Refusals that were added up, and the last connections.
    assert_eq!(join.called(1, 7, 3, None), None);
    assert_eq!(join.told(1, &told(7, 3, 0), None), None);
    assert_eq!(join.settled(now + GRACE + SETTLES * 2), [(7, vec![])]);
    // Nothing is kept of a job of which nothing is known.
    assert_eq!(join.called(1, 9, 1, None), None);
    assert!(join.jobs.is_empty());
}

#[test]
fn a_connection_of_a_jobs_last_moment_is_not_missed_and_one_that_is_older_is() {
    for (older, gaps) in [(FRESH, vec![Gap::Unreported(1)]), (FRESH / 2, vec![])] {
        let (mut join, now) = three();
        assert_eq!(join.told(1, &told(7, 2, 2), Some(3)), None);
        assert_eq!(join.ended(7, models(3), now + older), []);
        assert_eq!(join.settled(now + SETTLES * 2), [(7, gaps)]);
    }
}

#[test]
fn a_connection_around_the_gateway_is_told_each_time() {
    let (mut join, now) = three();
    assert_eq!(join.counted(7, Counted { models: 3, direct: 2 }, now), [Gap::Direct(2)]);
    assert_eq!(join.counted(7, Counted { models: 3, direct: 2 }, now), []);
    join.listens(2, GATEWAY + 1, &[(7, 3)]);
    assert_eq!(join.counted(7, Counted { models: 3, direct: 3 }, now), [Gap::Direct(1)]);
}

#[test]
fn a_gateway_that_went_takes_its_connections_with_it() {
    let (mut join, now) = three();
    assert_eq!(join.told(1, &told(7, 1, 0), Some(3)), None);
    join.hung_up(1);
    join.gone(GATEWAY);
    assert_eq!(join.counted(7, models(3), now + GRACE * 2), []);
    // How many those were is told of, once.
    assert_eq!(join.listens(2, GATEWAY + 1, &[(7, 3), (8, 0)]), 2);
    assert_eq!(join.listens(3, GATEWAY + 2, &[(7, 3)]), 0);
    assert_eq!(join.listens(2, GATEWAY + 1, &[(7, 3)]), 0);
    // A former one's job that is over is not this one's.
    join.gone(GATEWAY);
    assert_eq!(join.told(2, &told(7, 0, 0), Some(3)), None);
    assert_eq!(join.counted(7, models(3), now + GRACE * 4), []);
    assert_eq!(join.counted(7, models(3), now + GRACE * 6), []);
    // What the former one still says counts no more.
    assert_eq!(join.told(1, &told(7, 9, 0), Some(3)), None);
    assert_eq!(join.counted(7, models(4), now + GRACE * 7), []);
    assert_eq!(join.counted(7, models(4), now + GRACE * 8), [Gap::Unreported(1)]);
}

/// What happens to a job next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It connects; the kernel counts it, and the gateway accepts it that many steps later.
    Connects(usize),
    /// It makes or is refused a call by its last connection.
    Calls,
    /// A second passes.
    Second,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![(0_usize..4).prop_map(Step::Connects), Just(Step::Calls), Just(Step::Second),];
    proptest::collection::vec((0_u64..4, step), 1..400)
}

/// Four jobs' histories, told as an honest gateway tells them: once a second.
#[derive(Default)]
struct History {
    join: Join,
    kernel: [u64; 4],
    accepted: [u64; 4],
    /// When each connection is accepted, in steps.
    pending: Vec<(usize, usize)>,
    called: [u64; 4],
    gaps: Vec<(u64, Gap)>,
}

impl History {
    fn run(steps: &[(u64, Step)], hide: Option<usize>, make_up: bool) -> Self {
        let mut history = Self::default();
        let mut now = Instant::now();
        history.join.listens(1, GATEWAY, &[]);
        let seconds = [(0, Step::Second); 8];
        for (at, (job, step)) in steps.iter().chain(&seconds).enumerate() {
            let job = *job as usize;
            match step {
                Step::Connects(later) => {
                    history.kernel[job] += 1;
                    history.pending.push((at + later, job));
                }
                Step::Calls if history.accepted[job] > 0 => {
                    history.called[job] += 1;
                    let gap = history.join.called(1, job as u64, 1, Some(history.kernel[job]));
                    history.gaps.extend(gap.map(|gap| (job as u64, gap)));
                }
                Step::Calls => {}
                Step::Second => {
                    now += Duration::from_secs(1);
                    history.second(now, hide, make_up);
                }
            }
            let due: Vec<usize> = history.pending.iter().filter(|(due, _)| *due <= at).map(|(_, job)| *job).collect();
            history.pending.retain(|(due, _)| *due > at);
            due.into_iter().for_each(|job| history.accepted[job] += 1);
        }
        history
    }

    fn second(&mut self, now: Instant, hide: Option<usize>, make_up: bool) {
        for job in 0..4 {
            let hidden = u64::from(hide == Some(job)).min(self.accepted[job]);
            let accepted = self.accepted[job] - hidden + u64::from(make_up) * (self.kernel[job] + 1);
            let gap = self.join.told(1, &told(job as u64, accepted, 0), Some(self.kernel[job]));
            let counted = self.join.counted(job as u64, models(self.kernel[job]), now);
            self.gaps.extend(gap.into_iter().chain(counted).map(|gap| (job as u64, gap)));
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_told_of_a_history_in_which_all_fits(steps in steps()) {
        prop_assert_eq!(History::run(&steps, None, false).gaps, []);
    }

    #[test]
    fn one_connection_that_is_not_told_of_is_found_whatever_else_happens(steps in steps(), job in 0_usize..4) {
        let honest = History::run(&steps, None, false);
        prop_assume!(honest.accepted[job] > 0);
        let gaps = History::run(&steps, Some(job), false).gaps;
        prop_assert!(gaps.contains(&(job as u64, Gap::Unreported(1))), "{:?}", gaps);
        prop_assert!(gaps.iter().all(|(of, _)| *of == job as u64), "{:?}", gaps);
    }

    #[test]
    fn one_that_is_made_up_is_found_whatever_else_happens(steps in steps()) {
        let gaps = History::run(&steps, None, true).gaps;
        for job in 0..4 {
            prop_assert!(gaps.iter().any(|(of, gap)| *of == job && matches!(gap, Gap::Unseen(_))), "{:?}", gaps);
        }
    }
}

#[test]
fn a_daemon_that_was_held_up_gives_the_gateway_its_time() {
    let (mut join, now) = three();
    join.looks(now);
    let late = now + GRACE * 2;
    join.looks(late);
    assert_eq!(join.counted(7, models(3), late), []);
    // What it then hears of is no gap; what it does not hear of is.
    join.looks(late + GRACE / 5);
    assert_eq!(join.told(1, &told(7, 2, 0), Some(3)), None);
    for second in 2..5 {
        join.looks(late + GRACE / 5 * second);
    }
    join.looks(late + GRACE);
    assert_eq!(join.counted(7, models(3), late + GRACE), [Gap::Unreported(1)]);
}

#[test]
fn what_a_gateway_did_not_tell_of_jobs_that_ended_before_it_is_lost_to_nobody() {
    let two = Counted { models: 2, direct: 0 };
    for settles in [false, true] {
        let (mut join, now) = (Join::default(), Instant::now());
        assert_eq!(join.listens(1, 10, &[]), 0);
        join.adopt(7, Counted::default());
        assert_eq!(join.ended(7, two, now), []);
        join.gone(10);
        if settles {
            assert_eq!(join.settled(now + SETTLES + Duration::from_secs(1)), []);
        }
        assert_eq!(join.listens(2, 11, &[]), 2, "{settles}");
        assert_eq!(join.listens(3, 12, &[]), 0);
    }
    // One that tells of any number is not believed, and harms nobody.
    let mut join = Join::default();
    join.listens(1, 10, &[(7, 5)]);
    let told = told(7, u64::MAX, 0);
    assert_eq!(join.told(1, &told, Some(5)), Some(Gap::Unseen(u64::MAX - 5)));
}
