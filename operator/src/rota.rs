//! Whom to ask next: a schedule over the pods of all policies. Pure: time comes in, names go out.
//!
//! - Each pod is asked again some time after it was asked last ([`Rota::done`] says when).
//! - Policies take turns, so that one with a thousand pods keeps no other waiting.
//! - Pods that did not answer last time are asked in a lane of their own. Silent ones fill that lane at most, and those that answer never wait for them.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

/// A policy: its namespace and its name.
pub type Of = (Arc<str>, Arc<str>);

/// Where a pod stands.
#[derive(Debug)]
struct Turn {
    of: Of,
    due: Duration,
    is_silent: bool,
    is_running: bool,
    /// It is no more, and goes when it is done.
    is_gone: bool,
}

/// Pods that are asked side by side.
#[derive(Debug)]
struct Lane {
    /// How many more may be.
    free: usize,
    /// Who waits, by policy; the one that is due first comes first.
    waiting: BTreeMap<Of, BTreeSet<(Duration, String)>>,
    /// Whose turn it was last.
    last: Option<Of>,
}

/// The schedule. Pods have the names that the caller gives them, such as UIDs.
#[derive(Debug)]
pub struct Rota {
    pods: HashMap<String, Turn>,
    answering: Lane,
    silent: Lane,
}

/// The policy whose turn it is: the next one after the last for which this holds, in order of their names.
pub(crate) fn turn<T>(policies: &BTreeMap<Of, T>, last: Option<&Of>, holds: impl Fn(&T) -> bool) -> Option<Of> {
    let holds = |(_, of): &(&Of, &T)| holds(of);
    let after = last.and_then(|last| policies.range((Bound::Excluded(last.clone()), Bound::Unbounded)).find(holds));
    after.or_else(|| policies.iter().find(holds)).map(|(of, _)| of.clone())
}

// === impl Lane ===

impl Lane {
    fn new(free: usize) -> Self {
        Self { free, waiting: BTreeMap::new(), last: None }
    }

    fn add(&mut self, of: &Of, due: Duration, pod: &str) {
        self.waiting.entry(of.clone()).or_default().insert((due, pod.to_owned()));
    }

    fn remove(&mut self, of: &Of, due: Duration, pod: &str) {
        if let Some(pods) = self.waiting.get_mut(of) {
            pods.remove(&(due, pod.to_owned()));
            if pods.is_empty() {
                self.waiting.remove(of);
            }
        }
    }

    /// Takes out the pod whose turn it is.
    fn next(&mut self, now: Duration) -> Option<String> {
        if self.free == 0 {
            return None;
        }
        let is_due = |pods: &BTreeSet<(Duration, String)>| pods.first().is_some_and(|(due, _)| *due <= now);
        let of = turn(&self.waiting, self.last.as_ref(), is_due)?;
        let (due, pod) = self.waiting.get(&of)?.first()?.clone();
        self.remove(&of, due, &pod);
        self.free -= 1;
        self.last = Some(of);
        Some(pod)
    }

    fn wakes(&self) -> Option<Duration> {
        let firsts = self.waiting.values().filter_map(|pods| pods.first());
        firsts.map(|(due, _)| *due).min().filter(|_| self.free > 0)
    }
}

// === impl Rota ===

impl Rota {
    /// A schedule that asks so many at a time of those that answer, and so many of those that do not.
    pub fn new(answering: usize, silent: usize) -> Self {
        Self { pods: HashMap::new(), answering: Lane::new(answering), silent: Lane::new(silent) }
    }

    fn lane(&mut self, is_silent: bool) -> &mut Lane {
        if is_silent { &mut self.silent } else { &mut self.answering }
    }

    /// These are all pods now. A new one is due at once.
    pub fn set(&mut self, pods: impl IntoIterator<Item = (String, Of)>, now: Duration) {
        let mut gone: HashSet<String> = self.pods.keys().cloned().collect();
        for (pod, of) in pods {
            gone.remove(&pod);
            if let Some(turn) = self.pods.get_mut(&pod) {
                turn.is_gone = false;
                continue;
            }
            self.answering.add(&of, now, &pod);
            self.pods.insert(pod, Turn { of, due: now, is_silent: false, is_running: false, is_gone: false });
        }
        for pod in gone {
            if let Some(turn) = self.pods.get_mut(&pod).filter(|turn| turn.is_running) {
                turn.is_gone = true;
            } else if let Some(turn) = self.pods.remove(&pod) {
                self.lane(turn.is_silent).remove(&turn.of, turn.due, &pod);
            }
        }
    }

    /// Whose turn it is. The caller says [`Self::done`] of each.
    pub fn next(&mut self, now: Duration) -> Option<String> {
        let pod = self.answering.next(now).or_else(|| self.silent.next(now))?;
        if let Some(turn) = self.pods.get_mut(&pod) {
            turn.is_running = true;
        }
        Some(pod)
    }

    /// A pod was asked; it is due again at `due`.
    pub fn done(&mut self, pod: &str, answers: bool, due: Duration) {
        let Some(turn) = self.pods.get_mut(pod) else { return };
        let was_silent = std::mem::replace(&mut turn.is_silent, !answers);
        (turn.due, turn.is_running) = (due, false);
        let (of, is_gone) = (turn.of.clone(), turn.is_gone);
        self.lane(was_silent).free += 1;
        if is_gone {
            self.pods.remove(pod);
        } else {
            self.lane(!answers).add(&of, due, pod);
        }
    }

    /// The pods of a policy are due at `due`, if not before.
    pub fn hurry(&mut self, of: &Of, due: Duration) {
        for lane in [&mut self.answering, &mut self.silent] {
            let Some(waiting) = lane.waiting.get_mut(of) else { continue };
            let late: Vec<(Duration, String)> = waiting.range((due, String::new())..).cloned().collect();
            for (was, pod) in late {
                waiting.remove(&(was, pod.clone()));
                if let Some(turn) = self.pods.get_mut(&pod) {
                    turn.due = due;
                }
                waiting.insert((due, pod));
            }
        }
    }

    /// When somebody is due next; `None`: somebody must be done first, or there is nobody.
    pub fn wakes(&self) -> Option<Duration> {
        [self.answering.wakes(), self.silent.wakes()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(policy: usize) -> Of {
        ("shop".into(), format!("p{policy}").into())
    }

    const LOOK: Duration = Duration::from_secs(15);

    /// A fleet in which the pods of `silent` never answer and cost two seconds each; when each pod was asked first, and how often.
    fn play(pods: &[(String, Of)], silent: impl Fn(&str) -> bool, lasts: Duration) -> HashMap<String, Vec<Duration>> {
        let mut rota = Rota::new(8, 2);
        rota.set(pods.to_vec(), Duration::ZERO);
        let mut asked: HashMap<String, Vec<Duration>> = HashMap::new();
        let mut running: Vec<(Duration, String)> = Vec::new();
        let mut now = Duration::ZERO;
        while now < lasts {
            while let Some(pod) = rota.next(now) {
                let takes = if silent(&pod) { Duration::from_secs(2) } else { Duration::from_millis(5) };
                asked.entry(pod.clone()).or_default().push(now);
                running.push((now + takes, pod));
            }
            running.sort();
            let ends = running.first().map(|(end, _)| *end);
            now = [ends, rota.wakes()].into_iter().flatten().min().unwrap_or(lasts);
            while running.first().is_some_and(|(end, _)| *end <= now) {
                let (_, pod) = running.remove(0);
                rota.done(&pod, !silent(&pod), now + LOOK);
            }
        }
        asked
    }

    #[test]
    fn silent_pods_keep_no_other_waiting_once_they_are_known() {
        // 400 silent ones of 200 policies: they alone would take 800 seconds in one lane.
        let silent = (0..400).map(|pod| (format!("silent-{pod}"), of(pod % 200)));
        let good = (0..100).map(|pod| (format!("good-{pod}"), of(1000 + pod)));
        let pods: Vec<(String, Of)> = silent.chain(good).collect();
        let asked = play(&pods, |pod| pod.starts_with("silent"), Duration::from_mins(10));
        for (pod, of_pod) in asked.iter().filter(|(pod, _)| pod.starts_with("good")) {
            // Nobody is known in the beginning, and all are in one lane: 400 × 2 s by 8 at a time. From then on no silent one is in the way.
            let known = Duration::from_secs(101);
            let late = of_pod.windows(2).filter(|pair| pair[0] >= known).map(|pair| pair[1].saturating_sub(pair[0])).max();
            assert!(of_pod[0] < known && late.unwrap() < LOOK + Duration::from_millis(100), "{pod}: {of_pod:?}");
        }
        assert_eq!(asked.len(), 500, "each is asked");
    }

    #[test]
    fn a_policy_with_many_pods_lets_others_have_their_turn() {
        let many = (0..1000).map(|pod| (format!("many-{pod}"), of(0)));
        let pods: Vec<(String, Of)> = many.chain([("one".to_owned(), of(1))]).collect();
        let mut rota = Rota::new(1, 1);
        rota.set(pods, Duration::ZERO);
        let mut turns = Vec::new();
        for _ in 0..3 {
            let pod = rota.next(Duration::ZERO).unwrap();
            rota.done(&pod, true, LOOK);
            turns.push(pod);
        }
        assert!(turns.contains(&"one".to_owned()), "{turns:?}");
    }

    #[test]
    fn a_changed_policy_has_its_pods_asked_soon() {
        let mut rota = Rota::new(4, 4);
        rota.set([("a".into(), of(0)), ("b".into(), of(1))], Duration::ZERO);
        while let Some(pod) = rota.next(Duration::ZERO) {
            rota.done(&pod, pod == "a", LOOK);
        }
        rota.hurry(&of(1), Duration::from_secs(2));
        assert_eq!(rota.wakes(), Some(Duration::from_secs(2)));
        assert_eq!((rota.next(Duration::from_secs(2)).as_deref(), rota.next(Duration::from_secs(2))), (Some("b"), None));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(Vec<u8>),
        Next,
        Done(usize, bool),
        Hurry(u8),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            proptest::collection::vec(0u8..20, 0..12).prop_map(Step::Set),
            Just(Step::Next),
            Just(Step::Next),
            (0usize..4, any::<bool>()).prop_map(|(at, answers)| Step::Done(at, answers)),
            (0u8..4).prop_map(Step::Hurry),
            (0u64..20).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn nobody_is_asked_twice_at_once_or_forgotten(steps in proptest::collection::vec(step(), 1..80)) {
            let mut rota = Rota::new(3, 1);
            let (mut now, mut there, mut running) = (Duration::ZERO, Vec::<u8>::new(), Vec::<String>::new());
            for step in steps {
                match step {
                    Step::Set(mut pods) => {
                        pods.sort_unstable();
                        pods.dedup();
                        there = pods;
                        rota.set(there.iter().map(|pod| (pod.to_string(), of(usize::from(pod % 4)))), now);
                    }
                    Step::Next => {
                        if let Some(pod) = rota.next(now) {
                            prop_assert!(!running.contains(&pod) && there.contains(&pod.parse().unwrap()));
                            running.push(pod);
                            prop_assert!(running.len() <= 4);
                        }
                    }
                    Step::Done(at, answers) if !running.is_empty() => {
                        let pod = running.remove(at % running.len());
                        rota.done(&pod, answers, now + LOOK);
                    }
                    Step::Hurry(policy) => rota.hurry(&of(usize::from(policy)), now),
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                    Step::Done(..) => {}
                }
            }
            // Everybody who is there is asked in the end, and nobody else.
            for pod in running.drain(..) {
                rota.done(&pod, true, now);
            }
            let mut asked = HashSet::new();
            now += LOOK;
            while let Some(pod) = rota.next(now) {
                rota.done(&pod, true, now + LOOK);
                prop_assert!(asked.insert(pod.parse::<u8>().unwrap()));
            }
            prop_assert_eq!(asked, there.into_iter().collect::<HashSet<u8>>());
        }
    }
}
