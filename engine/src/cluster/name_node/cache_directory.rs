//! Which members may have what of remote objects in their caches, and who is to fetch what nobody has.
//!
//! Nothing of this is logged: after a restart members say again what they have, and a fetch that is forgotten costs a
//! second fetch at most.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use distdl_storage::Digest;
use distdl_storage::StoreFigures;
use distdl_storage::bloom::Bloom;

use super::NameNode;
use crate::cluster::identity::MemberId;
use crate::cluster::protocol::{Order, Source};
use crate::notices::Said;

/// Questions of one member that may wait for another's fetch to end.
const WAITING_MAX: usize = 4096;

/// Longest filter, in bytes.
pub(super) const FILTER_BYTES_MAX: usize = 64 << 20;

/// Members that one question is answered with.
const SOURCES_MAX: usize = 8;

#[derive(Debug, Default)]
pub(super) struct CacheDirectory {
    filters: BTreeMap<MemberId, Bloom>,
    fetches: BTreeMap<Digest, FetchRecord>,
    /// What reading has cost members so far, those that are gone included.
    figures: BTreeMap<MemberId, StoreFigures>,
    /// What members say of themselves.
    said: BTreeMap<MemberId, Said>,
    /// Whether anything ever was, so that members must be told what becomes of it.
    was_said: bool,
}

/// Something that a member is bringing.
#[derive(Debug)]
struct FetchRecord {
    of: MemberId,
    /// Who waits for it, with the number of the question.
    waiting: VecDeque<(MemberId, u64)>,
}

impl NameNode {
    /// A member says what it may be asked for.
    pub(super) fn holds(&mut self, member: MemberId, filter: &Bytes) {
        let Ok(bloom) = Bloom::from_snapshot(filter) else {
            return self.lose(member, "it sent a filter that cannot be read");
        };
        let is_new = self.cache_directory.filters.insert(member, bloom).is_none();
        let others: Vec<MemberId> = self.sharing().filter(|other| *other != member).collect();
        for other in others {
            self.tell_filter(other, member);
            if is_new {
                self.tell_filter(member, other);
            }
        }
    }

    /// Members that take part.
    fn sharing(&self) -> impl Iterator<Item = MemberId> + '_ {
        let members = self.cache_directory.filters.keys().copied();
        members.filter(|member| self.members.contains_key(member))
    }

    fn tell_filter(&mut self, to: MemberId, of: MemberId) {
        let filter = self
            .cache_directory
            .filters
            .get(&of)
            .and_then(|filter| filter.snapshot().ok());
        if let (Some(filter), Some(at)) = (filter, self.source(of)) {
            let filter = Some(filter.into());
            self.send(to, Order::CacheFilter { of: at, filter });
        }
    }

    fn source(&self, member: MemberId) -> Option<Source> {
        let address = self.members.get(&member)?.peer.address.clone();
        Some(Source { member, address })
    }

    /// A member looks for something that it did not find with those in `tried`.
    pub(super) fn sought(&mut self, member: MemberId, request: u64, key: Digest, tried: &[MemberId]) {
        let may = |other: &MemberId| *other != member && !tried.contains(other);
        let others: Vec<MemberId> = self.sharing().filter(may).collect();
        let filters = &self.cache_directory.filters;
        let holders = others
            .into_iter()
            .filter(|other| filters.get(other).is_some_and(|filter| filter.may_contain(&key)));
        let sources: Vec<Source> = holders
            .take(SOURCES_MAX)
            .filter_map(|other| self.source(other))
            .collect();
        if !sources.is_empty() {
            return self.found(member, request, key, sources);
        }
        match self.cache_directory.fetches.get_mut(&key) {
            Some(fetch) if fetch.of != member => {
                fetch.waiting.push_back((member, request));
                if self.cache_directory.waiting_of(member) > WAITING_MAX {
                    self.lose(member, &format!("more than {WAITING_MAX} of its questions wait"));
                }
            }
            _ => {
                let fetch = self.cache_directory.fetches.entry(key);
                fetch.or_insert_with(|| FetchRecord::of(member));
                self.found(member, request, key, Vec::new());
            }
        }
    }

    fn found(&mut self, member: MemberId, request: u64, key: Digest, sources: Vec<Source>) {
        let order = Order::Found { request, key, sources };
        self.send(member, order);
    }

    /// A member's fetch has ended.
    pub(super) fn brought(&mut self, member: MemberId, key: Digest, is_here: bool) {
        if is_here && let Some(filter) = self.cache_directory.filters.get_mut(&member) {
            filter.insert(&key);
        }
        if self
            .cache_directory
            .fetches
            .get(&key)
            .is_some_and(|fetch| fetch.of == member)
        {
            self.end_fetch(key, is_here.then_some(member));
        }
    }

    /// Tells those who wait who has it, or lets the next one bring it.
    fn end_fetch(&mut self, key: Digest, holder: Option<MemberId>) {
        let Some(mut fetch) = self.cache_directory.fetches.remove(&key) else {
            return;
        };
        if let Some(source) = holder.and_then(|holder| self.source(holder)) {
            for (member, request) in fetch.waiting {
                self.found(member, request, key, vec![source.clone()]);
            }
        } else if let Some((next, request)) = fetch.waiting.pop_front() {
            fetch.of = next;
            self.cache_directory.fetches.insert(key, fetch);
            self.found(next, request, key, Vec::new());
        }
    }

    /// A member is gone, or begins anew after a restart.
    pub(super) fn holds_no_more(&mut self, member: MemberId) {
        self.cache_directory.said.remove(&member);
        for fetch in self.cache_directory.fetches.values_mut() {
            fetch.waiting.retain(|(waits, _)| *waits != member);
        }
        let fetches = self.cache_directory.fetches.iter();
        let its: Vec<Digest> = fetches
            .filter(|(_, fetch)| fetch.of == member)
            .map(|(key, _)| *key)
            .collect();
        its.into_iter().for_each(|key| self.end_fetch(key, None));
        self.cache_directory.filters.remove(&member);
        if self.cache_directory.filters.is_empty() {
            return;
        }
        // It may have been asked without a filter, too: as one that had just brought something.
        if let Some(of) = self.source(member) {
            let others: Vec<MemberId> = self.sharing().collect();
            for other in others {
                let (of, filter) = (of.clone(), None);
                self.send(other, Order::CacheFilter { of, filter });
            }
        }
    }

    /// What reading has cost a member so far.
    pub(super) fn has_read(&mut self, member: MemberId, figures: StoreFigures) {
        self.cache_directory.figures.insert(member, figures);
    }

    /// What reading has cost all members so far, if anything.
    fn reading(&self) -> Option<StoreFigures> {
        let figures = self.cache_directory.figures.values().copied();
        let all = figures.reduce(StoreFigures::plus)?;
        (all != StoreFigures::default()).then_some(all)
    }

    /// A member says something, in the place of what it did before.
    pub(super) fn has_said(&mut self, member: MemberId, said: Said) {
        self.cache_directory.said.insert(member, said);
        self.cache_directory.was_said = true;
    }

    /// Tells these members what reading has cost, and what all have said.
    pub(super) fn tell_figures(&mut self, members: &[MemberId]) {
        let (figures, said) = (self.reading(), self.said());
        for &member in members {
            if let Some(figures) = figures {
                self.send(member, Order::Read { figures });
            }
            if let Some(of_all) = said.clone() {
                self.send(member, Order::Notices { of_all });
            }
        }
    }

    /// What members that live have said; `None` if nothing ever was.
    fn said(&self) -> Option<BTreeMap<(u32, MemberId), Said>> {
        let said = self.cache_directory.said.iter();
        let living = said.filter_map(|(member, said)| {
            let slot = self.members.get(member)?.peer.slot;
            Some(((slot, *member), said.clone()))
        });
        self.cache_directory.was_said.then(|| living.collect())
    }
}

impl CacheDirectory {
    /// After a restart members may have been told what nobody has said to this name node.
    pub(super) fn new(is_restarted: bool) -> Self {
        Self {
            was_said: is_restarted,
            ..Self::default()
        }
    }

    fn waiting_of(&self, member: MemberId) -> usize {
        let waiting = self.fetches.values().flat_map(|fetch| &fetch.waiting);
        waiting.filter(|(waits, _)| *waits == member).count()
    }
}

impl FetchRecord {
    fn of(member: MemberId) -> Self {
        Self {
            of: member,
            waiting: VecDeque::new(),
        }
    }
}
