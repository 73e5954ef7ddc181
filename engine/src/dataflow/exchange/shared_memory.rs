//! What processes of one host exchange through memory that they share: vectors and shards that are read in place, and
//! letters that say where these lie.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use distdl_storage::Unpoisoned;

use super::Exchange;
use crate::cluster::mailbox::{self, Mailbox, Sent};
use crate::cluster::shared_memory::{Piece, Region, RegionName, View};
use crate::cluster::wire::{Header, Kind, WireError};
use crate::dataflow::team::Team;
use crate::dataflow::vector::Vector;
use crate::dataflow::workers::IdlePoll;
use crate::error::EngineError;
use crate::staleness::Staleness;

/// How long a worker looks for letters before it sleeps, where all workers have cores of their own: longer than most
/// waits for a peer that computes as much as this process.
const PATIENCE: Duration = Duration::from_micros(100);

/// The memory that this process shares with others of its host while a loop runs.
pub(super) struct SharedMemoryExchange {
    region: Arc<Region>,
    /// Vectors for lanes, until they are taken.
    vectors: Mutex<HashMap<usize, Vec<Piece>>>,
    /// Sums over several lanes of this process, by the first one; parts for one owner after the other are written. As
    /// many sets of them as there may be steps on their way, which take turns.
    pub(super) sums: Vec<Mutex<HashMap<usize, Piece>>>,
    /// New values of this process's shards: while versions are read, the next is written. Versions take turns.
    pub(super) outboxes: Vec<Mutex<HashMap<usize, Piece>>>,
    /// Ranks that read this process's memory in place.
    readers: Vec<AtomicBool>,
    /// The memory of other ranks, and where in it their mailboxes are.
    views: Mutex<HashMap<usize, (Arc<View>, usize)>>,
    mailbox: Mailbox,
    /// Letters that came too early. Held while letters are taken.
    early: Mutex<Vec<(usize, Header)>>,
    patience: Duration,
}

impl SharedMemoryExchange {
    /// Memory for these lanes and sums, each as long as the parameters, and these shards.
    pub(super) fn new(
        ranks: usize,
        workers: usize,
        (length, staleness): (usize, Staleness),
        lanes: &[usize],
        nodes: &[Range<usize>],
        shards: &BTreeMap<usize, Range<usize>>,
    ) -> Option<Self> {
        let several = nodes.iter().filter(|node| node.len() > 1).map(|node| node.start);
        let (updates, versions) = (staleness.updates(), staleness.lag() + 2);
        let vectors = lanes.iter().copied().chain(several.clone()).map(|_| length);
        let outboxes = shards.values().map(ExactSizeIterator::len);
        let mut lengths = vec![mailbox::floats(ranks)];
        (0..updates).for_each(|_| lengths.extend(vectors.clone()));
        (0..versions).for_each(|_| lengths.extend(outboxes.clone()));
        let created = Region::create(&lengths);
        let created = created.inspect_err(|error| tracing::debug!("no memory to share: {error}"));
        let (region, pieces) = created.ok()?;
        let mut pieces = pieces.into_iter();
        let mailbox = Mailbox::new(pieces.next()?, ranks);
        let mut vectors: HashMap<usize, Vec<Piece>> = HashMap::new();
        let sums = (0..updates).map(|_| {
            for (lane, piece) in lanes.iter().zip(pieces.by_ref()) {
                vectors.entry(*lane).or_default().push(piece);
            }
            Mutex::new(several.clone().zip(pieces.by_ref()).collect())
        });
        let sums = sums.collect();
        let outbox = |_| Mutex::new(shards.keys().copied().zip(pieces.by_ref()).collect());
        let outboxes = (0..versions).map(outbox).collect();
        Some(Self {
            region,
            vectors: Mutex::new(vectors),
            sums,
            outboxes,
            readers: (0..ranks).map(|_| AtomicBool::new(false)).collect(),
            views: Mutex::default(),
            mailbox,
            early: Mutex::default(),
            patience: match std::thread::available_parallelism() {
                Ok(cores) if workers <= cores.get() => PATIENCE,
                _ => Duration::ZERO,
            },
        })
    }
}

impl Exchange {
    /// Whether a rank reads this process's memory in place.
    pub(crate) fn shares_with(&self, rank: usize) -> bool {
        let readers = self
            .shared_memory
            .as_ref()
            .and_then(|sharing| sharing.readers.get(rank));
        readers.is_some_and(|reads| reads.load(Ordering::Acquire))
    }

    /// Whether a rank cannot fall behind by more versions than are left for it: the others wait for its lanes or
    /// shards.
    pub(super) fn keeps_up(&self, rank: usize) -> bool {
        if self.iteration.staleness.is_asynchronous() {
            return false;
        }
        let workers = self.team.workers(rank);
        let hosts = self.placement.lanes.iter().any(|worker| workers.contains(worker));
        hosts || self.owners.iter().any(|owner| owner.rank == rank)
    }

    /// Vectors for the updates of a lane, where possible such that others can read in place.
    pub(crate) fn vectors(&self, lane: usize) -> Vec<Vector> {
        let shared = self
            .shared_memory
            .as_ref()
            .and_then(|sharing| sharing.vectors.lock().unpoisoned().remove(&lane));
        match shared {
            Some(pieces) => pieces.into_iter().map(Vector::Shared).collect(),
            None => {
                let own = |_| Vector::new(self.parameters.len());
                (0..self.iteration.staleness.updates()).map(own).collect()
            }
        }
    }

    /// Tells the other processes where this one's memory is.
    pub(crate) fn share(&self) {
        if let Some(sharing) = &self.shared_memory {
            let name = sharing.region.name();
            let words = [
                u64::from(name.process),
                u64::from(name.descriptor),
                name.floats,
                sharing.mailbox.start() as u64,
                name.mark[0],
                name.mark[1],
            ];
            self.team.tell_all(&Header::new(Kind::Share, words));
        }
    }

    /// Looks for the memory of another process: it is there if that is on the same host, and no container is between
    /// them.
    pub(super) fn take_share(&self, rank: usize, header: &Header) {
        let [process, descriptor, floats, letters, first, second] = header.words;
        let name = RegionName {
            process: process as u32,
            descriptor: descriptor as u32,
            floats,
            mark: [first, second],
        };
        let (Some(sharing), Ok(view)) = (&self.shared_memory, View::open(&name)) else {
            return;
        };
        sharing
            .views
            .lock()
            .unpoisoned()
            .insert(rank, (Arc::new(view), letters as usize));
        self.team.send_soon(rank, Header::new(Kind::Shared, [0; 6]));
    }

    pub(super) fn take_shared(&self, rank: usize) {
        if let Some(reads) = self
            .shared_memory
            .as_ref()
            .and_then(|sharing| sharing.readers.get(rank))
        {
            reads.store(true, Ordering::Release);
        }
    }

    /// The memory of another process, if it has the numbers in `range`.
    pub(super) fn view(&self, rank: usize, range: Range<usize>) -> Option<Arc<View>> {
        let (view, _) = self
            .shared_memory
            .as_ref()?
            .views
            .lock()
            .unpoisoned()
            .get(&rank)
            .cloned()?;
        view.read(range).is_some().then_some(view)
    }

    /// Sends a frame without payload: as a letter if its receiver looks for letters.
    pub(super) fn tell(&self, rank: usize, header: Header) {
        if !self.write_letter(rank, &header, Team::ring) {
            self.team.send(rank, header, &[]);
        }
    }

    /// The same without waiting for a link, for threads that read one.
    pub(super) fn tell_soon(&self, rank: usize, header: Header) {
        if !self.write_letter(rank, &header, Team::send_soon) {
            self.team.send_soon(rank, header);
        }
    }

    /// False if the frame must go over the link. Who sleeps is woken by `ring`.
    fn write_letter(&self, rank: usize, header: &Header, ring: fn(&Team, usize, Header)) -> bool {
        let Some(sharing) = self.shared_memory.as_ref().filter(|_| self.shares_with(rank)) else {
            return false;
        };
        let Some((view, start)) = sharing.views.lock().unpoisoned().get(&rank).cloned() else {
            return false;
        };
        if !self.team.comes_to_frame() {
            // This process was killed instead.
            return true;
        }
        let there = mailbox::Address { view: &view, start };
        match sharing.mailbox.send(self.team.rank, rank, there, header) {
            Sent::Written => {}
            Sent::Ring => ring(&self.team, rank, Header::new(Kind::Ring, [0; 6])),
            Sent::Full => return false,
        }
        true
    }

    /// Takes the letters that lie here. Whether there were any.
    pub(super) fn take_letters(&self) -> bool {
        let Some(sharing) = &self.shared_memory else {
            return false;
        };
        let mut early = sharing.early.lock().unpoisoned();
        let mut letters = std::mem::take(&mut *early);
        let waiting = letters.len();
        let views: Vec<(usize, (Arc<View>, usize))> = {
            let views = sharing.views.lock().unpoisoned();
            views.iter().map(|(rank, view)| (*rank, view.clone())).collect()
        };
        for (rank, (view, start)) in views {
            let there = mailbox::Address { view: &view, start };
            loop {
                match sharing.mailbox.take(self.team.rank, rank, there) {
                    Ok(Some(header)) => letters.push((rank, header)),
                    Ok(None) => break,
                    Err(error) => return self.garbled(rank, &error),
                }
            }
        }
        let count = letters.len();
        for (rank, header) in letters {
            match self.take_letter(rank, &header) {
                Ok(true) => {}
                Ok(false) => early.push((rank, header)),
                Err(error) => return self.garbled(rank, &error),
            }
        }
        count > waiting || early.len() < waiting
    }

    fn garbled(&self, rank: usize, error: &WireError) -> bool {
        self.fail(EngineError::invalid(
            format!("what rank {rank} wrote into the memory that it shares is no letter: {error}"),
            "this is a bug, or memory that fails; start again",
        ));
        true
    }
}

impl IdlePoll for Exchange {
    fn poll(&self) -> bool {
        let sealed = self.sealed.read().unpoisoned();
        !*sealed && self.take_letters()
    }

    fn fall_asleep(&self) {
        if let Some(sharing) = &self.shared_memory {
            sharing.mailbox.fall_asleep();
        }
    }

    fn wake_up(&self) {
        if let Some(sharing) = &self.shared_memory {
            sharing.mailbox.wake_up();
        }
    }

    fn patience(&self) -> Duration {
        self.shared_memory
            .as_ref()
            .map_or(Duration::ZERO, |sharing| sharing.patience)
    }
}
