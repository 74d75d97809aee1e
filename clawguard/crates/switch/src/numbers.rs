//! The numbers by which the kernel tells groups apart.

use std::collections::{BTreeMap, BTreeSet};

use clawguard_common::{MAX_GROUPS, group};
use fence::Numbering;
use policy::Group;
use serde::{Deserialize, Serialize};

/// Which group has which number on this host. On disk before any map uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbers {
    named: BTreeMap<Group, usize>,
}

/// More groups than a host can tell apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no number is left for the group {group}: a host tells at most {MAX_GROUPS} groups apart")]
pub struct Full {
    group: Group,
}

impl Numbers {
    /// Gives numbers to groups that have none. Numbers of groups that are not in `used` are given anew once there are no
    /// others. Answers whether anything changed.
    ///
    /// # Errors
    ///
    /// [`Full`], and nothing is changed.
    pub fn assign<'a>(
        &mut self,
        groups: impl IntoIterator<Item = &'a Group>,
        used: &BTreeSet<Group>,
    ) -> Result<bool, Full> {
        let mut next = self.clone();
        for group in groups {
            if next.number(group).is_some() {
                continue;
            }
            let taken: BTreeSet<usize> = next.named.values().copied().collect();
            let number = (group::FIRST_NAMED..MAX_GROUPS).find(|number| !taken.contains(number)).or_else(|| {
                let unused = next.named.iter().find(|(group, _)| !used.contains(*group));
                let (group, number) = unused.map(|(group, number)| (group.clone(), *number))?;
                next.named.remove(&group);
                Some(number)
            });
            match number {
                Some(number) => next.named.insert(group.clone(), number),
                None => return Err(Full { group: group.clone() }),
            };
        }
        let changed = next != *self;
        *self = next;
        Ok(changed)
    }

    /// All groups that have a number, built-in ones included.
    pub fn all(&self) -> impl Iterator<Item = (Group, usize)> + '_ {
        Group::built_ins().chain(self.named.iter().map(|(group, number)| (group.clone(), *number)))
    }
}

impl Numbering for Numbers {
    fn number(&self, group: &Group) -> Option<usize> {
        group.built_in().or_else(|| self.named.get(group).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(n: usize) -> Group {
        format!("g{n}").parse().unwrap()
    }

    #[test]
    fn numbers_stay_and_are_given_once() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.assign([&named(1), &named(2), &Group::model()], &BTreeSet::new()), Ok(true));
        let before = numbers.number(&named(1));
        assert_eq!(numbers.assign([&named(1)], &BTreeSet::new()), Ok(false));
        assert_eq!(numbers.number(&named(1)), before);
        assert_ne!(numbers.number(&named(1)), numbers.number(&named(2)));
        assert_eq!(numbers.number(&Group::all()), Some(group::ALL));
    }

    #[test]
    fn a_full_host_refuses_one_more_unless_one_is_unused() {
        let mut numbers = Numbers::default();
        let room = MAX_GROUPS - group::FIRST_NAMED;
        let all: Vec<Group> = (0..room).map(named).collect();
        let used: BTreeSet<Group> = all.iter().cloned().collect();
        numbers.assign(&all, &used).unwrap();
        let full = numbers.clone();
        assert!(numbers.assign([&named(room)], &used).is_err());
        assert_eq!(numbers, full);
        let mut used = used;
        used.remove(&named(7));
        numbers.assign([&named(room)], &used).unwrap();
        assert_eq!(numbers.number(&named(7)), None);
        assert_eq!(numbers.number(&named(room)), full.number(&named(7)));
    }
}
