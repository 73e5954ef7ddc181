//! Members that a script leads instead of a name node, so that what happens between them has one order.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod found_again;
mod rounds;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};

use distdl_storage::testing::wait_until;

use super::*;
use crate::cluster::arithmetic::Arithmetic;
use crate::cluster::chaos::Chaos;
use crate::cluster::control::{self, JOIN_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::cluster::handshake::{self, HANDSHAKE_TIME_MAX, HandshakePermits, Mine};
use crate::cluster::identity::Role;
use crate::cluster::link::Body;
use crate::cluster::origins::Origins;
use crate::cluster::protocol::{ActionKind, Asset, Head, LoopState, Peer};
use crate::cluster::secrets::Secrets;
use crate::cluster::wire::{Kind, WireError};
use crate::id::DatasetId;

const CAPACITY: Capacity = Capacity {
    threads: 1,
    speculates: false,
    arithmetic: Arithmetic::ANY,
};

const RUN: u64 = 7;

/// Longer than any of these tests takes.
const LEASE: Duration = Duration::from_secs(60);

/// A report that does not come for so long never does.
const REPORT_TIME_MAX: Duration = Duration::from_secs(20);

/// The name node's side of one member.
struct Lead {
    socket: Arc<Socket>,
    reports: Receiver<Report>,
    /// Heartbeats.
    beats: Receiver<Report>,
    peer: Peer,
}

impl Lead {
    /// What the member says, heartbeats left out.
    fn hear(&self) -> Report {
        self.reports.recv_timeout(REPORT_TIME_MAX).expect("it says nothing")
    }

    fn let_in(&self) {
        self.let_into(RUN, LEASE);
    }

    fn let_into(&self, run: u64, lease: Duration) {
        let welcome = Order::Welcome {
            member: self.peer.member,
            slot: self.peer.slot,
            lease,
            run,
        };
        control::send(&*self.socket, &welcome, MESSAGE_BYTES_MAX).unwrap();
    }
}

/// Members with the numbers 0, 1 and so on, in slots of the same numbers.
fn members(count: u64) -> Vec<(Member, Lead)> {
    let cluster = Cluster::new();
    (0..count)
        .map(|number| cluster.member(number, Duration::ZERO))
        .collect()
}

/// Where members find who leads them.
struct Cluster {
    listener: Listener,
    secrets: Secrets,
}

impl Cluster {
    fn new() -> Self {
        Self {
            listener: Listener::bind_local().unwrap(),
            secrets: Secrets::random().unwrap(),
        }
    }

    fn member(&self, number: u64, name_node_grace: Duration) -> (Member, Lead) {
        self.member_of(RUN, number, name_node_grace, LEASE)
    }

    fn member_of(&self, run: u64, number: u64, name_node_grace: Duration, lease: Duration) -> (Member, Lead) {
        let join = self.join(number, name_node_grace);
        let joining = std::thread::spawn(move || {
            let chaos = Chaos::default().plan_for_slot(0, 0);
            Member::join(join, CAPACITY, chaos, Fate::Vanish).unwrap()
        });
        let lead = meet(&self.listener, &self.credentials(), MemberId(number));
        lead.let_into(run, lease);
        (joining.join().unwrap(), lead)
    }

    fn join(&self, number: u64, name_node_grace: Duration) -> Join {
        Join {
            name_node: self.listener.address(),
            secrets: self.secrets.clone(),
            slot: Some(number as u32),
            life: 0,
            role: Role::Worker,
            name_node_grace,
            bind: None,
            port: 0,
            advertise: None,
            parent: None,
            is_child: false,
        }
    }

    fn credentials(&self) -> Credentials {
        let secrets = &self.secrets;
        Credentials::new(secrets.cluster, &secrets.token, distdl_storage::program_fingerprint())
    }

    fn welcome(&self, member: MemberId) -> Lead {
        welcome(&self.listener, &self.credentials(), member)
    }

    /// A process that may not come.
    fn welcome_soon(self, member: MemberId) -> Lead {
        let (found, again) = channel();
        std::thread::spawn(move || found.send(self.welcome(member)));
        again
            .recv_timeout(REPORT_TIME_MAX)
            .expect("nobody looks for the name node")
    }
}

fn welcome(listener: &Listener, credentials: &Credentials, member: MemberId) -> Lead {
    let lead = meet(listener, credentials, member);
    lead.let_in();
    lead
}

/// As far as the member's wish to be let in.
fn meet(listener: &Listener, credentials: &Credentials, member: MemberId) -> Lead {
    let socket = Arc::new(listener.accept().unwrap());
    let mine = Mine::of_nobody(HANDSHAKE_TIME_MAX);
    let permit = Arc::<HandshakePermits>::default().take();
    handshake::accept(&socket, credentials, &mine, &permit, |_| Ok(())).unwrap();
    let Ok(Some(Report::Join {
        address,
        threads,
        speculates,
        role,
        ..
    })) = control::receive(&*socket, JOIN_BYTES_MAX)
    else {
        panic!("it does not join");
    };
    let slot = member.0 as u32;
    let ((said, reports), (beat, beats)) = (channel(), channel());
    let listening = Arc::clone(&socket);
    std::thread::spawn(move || {
        while let Ok(Some(report)) = control::receive(&*listening, MESSAGE_BYTES_MAX) {
            let told = match report {
                Report::Heartbeat { .. } => beat.send(report),
                _ => said.send(report),
            };
            if told.is_err() {
                return;
            }
        }
    });
    Lead {
        socket,
        reports,
        beats,
        peer: Peer {
            member,
            slot,
            address,
            threads,
            speculates,
            role,
        },
    }
}

fn computed() -> Outcome {
    Outcome::Computed {
        complete: true,
        results: Vec::new(),
        updates: Vec::new(),
        tasks: (0, 0),
    }
}

#[test]
fn a_member_listens_at_the_port_that_it_is_given() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let at = |ip: &str| Join {
        name_node: Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))),
        secrets: Secrets::derived_from(b"of these tests"),
        slot: None,
        life: 0,
        role: Role::Worker,
        name_node_grace: Duration::ZERO,
        bind: Some(ip.parse().unwrap()),
        port,
        advertise: None,
        parent: None,
        is_child: false,
    };
    // Another address of this host has the same port free.
    let listener = links::listen(&at("127.0.0.2")).unwrap();
    assert_eq!(
        listener.address(),
        Address::Tcp(SocketAddr::from(([127, 0, 0, 2], port)))
    );
    let reason = links::listen(&at("127.0.0.1")).err().unwrap();
    assert!(
        reason.contains(&format!("127.0.0.1:{port}")) && reason.contains("a port of its own"),
        "{reason}"
    );
    let reason = links::listen(&at("192.0.2.1")).err().unwrap();
    assert!(reason.contains("an address of this host"), "{reason}");
}

/// One end of a link fails when the other has ended its part of a round and so has no use for it, while the first is
/// about to enter: it would wait for ever for a link that nobody opens.
#[test]
fn a_link_that_breaks_behind_a_round_of_one_end_ends_the_generation() {
    let mut members = members(2);
    let (later, later_lead) = members.pop().unwrap();
    let (earlier, earlier_lead) = members.pop().unwrap();
    let generation = |number| Generation {
        number,
        members: vec![earlier_lead.peer.clone(), later_lead.peer.clone()],
    };
    let (first, second) = (generation(1), generation(2));
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| earlier.enter(&first, 0, 0).is_some());
        assert!(later.enter(&first, 0, 0).is_some());
        assert!(opening.join().unwrap());
    });
    let round = later.enter(&second, 0, 1).unwrap();
    later.ended(round.key, computed(), Inventory::new());
    assert!(matches!(later_lead.hear(), Report::Ended { cut: false, .. }));
    earlier.shared.cut_link(1);
    std::thread::scope(|scope| {
        let entering = scope.spawn(|| earlier.enter(&second, 0, 1).is_none());
        let heard = later_lead.reports.recv_timeout(REPORT_TIME_MAX);
        let cut = Order::Cut {
            generation: 2,
            lost: Vec::new(),
        };
        control::send(&*earlier_lead.socket, &cut, MESSAGE_BYTES_MAX).unwrap();
        assert!(entering.join().unwrap());
        // Asserted last: a failure must not leave the other thread waiting.
        let told = matches!(&heard, Ok(Report::PeerLost { generation: 2, peer, .. }) if *peer == MemberId(0));
        assert!(told, "the name node must hear of it, and heard {heard:?}");
    });
}

/// Two clusters that a user starts by hand have one secret, and each counts its members from 0. A port that a process
/// of one has left may be one's of the other by now.
#[test]
fn a_member_of_another_run_at_the_address_of_one_that_is_gone_is_none() {
    let cluster = Cluster::new();
    let (_other, other_lead) = cluster.member_of(RUN + 1, 0, Duration::ZERO, LEASE);
    let (member, lead) = cluster.member(1, Duration::ZERO);
    let generation = Generation {
        number: 1,
        members: vec![other_lead.peer.clone(), lead.peer.clone()],
    };
    assert!(member.enter(&generation, 0, 0).is_none());
    let heard = lead.hear();
    let Report::PeerLost {
        generation: 1, cause, ..
    } = &heard
    else {
        panic!("{heard:?}")
    };
    assert!(cause.contains("another run of the program"), "{cause}");
}

/// An order to begin may be on its way to the driver program when the action is answered, by an error elsewhere.
#[test]
fn a_round_of_an_action_that_was_answered_is_not_begun() {
    struct Nobody;
    impl Receive for Nobody {
        fn receive(&self, _: usize, _: &Header, _: &mut Body<'_>) -> Result<(), WireError> {
            Ok(())
        }
        fn cancel(&self) {}
    }
    let (member, lead) = members(1).pop().unwrap();
    let generation = Generation {
        number: 1,
        members: vec![lead.peer.clone()],
    };
    let round = member.enter(&generation, 0, 0).unwrap();
    let answer = Order::Answer {
        action: 0,
        answer: crate::cluster::protocol::Answer::Iterated { result: None },
    };
    control::send(&*lead.socket, &answer, MESSAGE_BYTES_MAX).unwrap();
    assert!(matches!(member.next_order(), Ok(Order::Answer { action: 0, .. })));
    assert!(!round.begin(Arc::new(Nobody)));
    assert!(member.enter(&generation, 1, 0).unwrap().begin(Arc::new(Nobody)));
}

/// A name node that was started again may tell what it said before, while the next action runs.
#[test]
fn an_answer_that_is_told_again_stops_no_round_of_the_next_action() {
    struct Cancelled(AtomicBool);
    impl Receive for Cancelled {
        fn receive(&self, _: usize, _: &Header, _: &mut Body<'_>) -> Result<(), WireError> {
            Ok(())
        }
        fn cancel(&self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (member, lead) = members(1).pop().unwrap();
    let generation = Generation {
        number: 1,
        members: vec![lead.peer.clone()],
    };
    let receiver = Arc::new(Cancelled(AtomicBool::new(false)));
    assert!(member.enter(&generation, 5, 0).unwrap().begin(receiver.clone()));
    for (action, cancels) in [(4, false), (5, true)] {
        let answer = crate::cluster::protocol::Answer::Iterated { result: None };
        let order = Order::Answer { action, answer };
        control::send(&*lead.socket, &order, MESSAGE_BYTES_MAX).unwrap();
        assert!(matches!(member.next_order(), Ok(Order::Answer { .. })));
        assert_eq!(
            receiver.0.load(Ordering::SeqCst),
            cancels,
            "the answer to action {action}"
        );
    }
}

/// A peer that hangs keeps its end open. Nobody who writes to it may wait once it is out.
#[test]
fn the_link_to_a_member_that_is_left_out_is_closed() {
    // Nobody leads them here, but their connections stay.
    let (members, led): (Vec<Member>, Vec<Lead>) = members(3).into_iter().unzip();
    let leads: Vec<Peer> = led.iter().map(|lead| lead.peer.clone()).collect();
    let (first, second) = (
        Generation {
            number: 1,
            members: leads.clone(),
        },
        Generation {
            number: 2,
            members: leads[..2].to_vec(),
        },
    );
    let enter = |members: &[Member], generation: &Generation, round| {
        std::thread::scope(|scope| {
            let entering = members
                .iter()
                .map(|member| scope.spawn(move || member.enter(generation, 0, round).is_some()));
            let entering: Vec<_> = entering.collect();
            assert!(entering.into_iter().all(|entered| entered.join().unwrap()));
        });
    };
    let link = |peer: u64| lock(&members[0].shared).links.get(&MemberId(peer)).cloned();
    enter(&members, &first, 0);
    let (gone, kept) = (link(2).unwrap(), link(1).unwrap());
    enter(&members[..2], &second, 1);
    assert!(gone.is_broken() && link(2).is_none());
    assert!(!kept.is_broken());
}

/// The maker of an older copy may be gone, and the block be computed anew by somebody else.
#[test]
fn a_copy_is_kept_in_the_generation_in_which_it_was_made_and_in_no_other() {
    let (members, led): (Vec<Member>, Vec<Lead>) = members(2).into_iter().unzip();
    let (kept, keeps) = channel();
    members[1].keep(Arc::new(move |block, _| kept.send(block.partition).is_ok()));
    let generation = |number| Generation {
        number,
        members: led.iter().map(|lead| lead.peer.clone()).collect(),
    };
    let (first, second) = (generation(1), generation(2));
    let block = |partition| BlockId { dataset: 7, partition };
    let of_first = std::thread::scope(|scope| {
        scope.spawn(|| members[1].enter(&first, 0, 0).unwrap());
        members[0].enter(&first, 0, 0).unwrap()
    });
    assert!(of_first.copy(1, block(1), &[]));
    let of_second = members[0].enter(&second, 0, 1).unwrap();
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| of_second.copy(1, block(2), &[]));
        wait_until("the copy is sent", || {
            assert!(!copying.is_finished(), "it was not even sent");
            !lock(&members[0].shared).fetches.is_empty()
        });
        members[1].enter(&second, 0, 1).unwrap();
        assert!(copying.join().unwrap(), "it waits until the other one is there, too");
    });
    assert!(!of_first.copy(1, block(3), &[]), "the generation is over");
    assert_eq!(keeps.try_iter().collect::<Vec<u64>>(), [1, 2]);
    assert_eq!(of_second.fetch(1, block(1)), Ok(None));
    for answer in [Ok(Some(vec![1, 2])), Ok(None), Err("too many open files".to_owned())] {
        let given = answer.clone();
        members[1].serve(Arc::new(move |_| given.clone()));
        assert_eq!(of_second.fetch(1, block(1)), answer);
    }
}

/// One whose process would be ended if its program did not end.
#[test]
fn a_driver_program_that_waits_for_orders_is_told_that_its_cluster_is_gone() {
    let (member, lead) = members(1).pop().unwrap();
    member.end_process_with_it();
    let reason = Dismissal::Lost(MemberId(0));
    control::send(&*lead.socket, &Order::Dismiss { reason }, MESSAGE_BYTES_MAX).unwrap();
    assert!(matches!(member.next_order(), Err(EngineError::LeftCluster { .. })));
    member.leave(None);
}

#[test]
fn who_finds_no_name_node_says_why_and_is_not_kept_from_ending_by_the_search() {
    let never = Duration::from_secs(1 << 20);
    for grace in [Duration::from_millis(100), never] {
        let cluster = Cluster::new();
        let (member, _lead) = cluster.member(0, grace);
        drop(cluster);
        let is_told_to_end = grace == never;
        if is_told_to_end {
            member.shared.close("its program has ended");
        }
        let listener = Listener::bind_local().unwrap();
        let found = member
            .shared
            .find_again(&listener, CAPACITY, "the connection broke".to_owned());
        let gone = found.err().unwrap().to_string();
        let says_why = gone.contains("for 100ms (`--name-grace`): cannot reach the name node at");
        assert_eq!(is_told_to_end, gone == "its program has ended", "{gone}");
        assert_eq!(is_told_to_end, !says_why, "{gone}");
    }
}

/// A thread that reads links must not wait for one that is full, or two processes may wait for each other.
#[test]
fn what_is_sent_soon_does_not_wait_for_a_link_that_nobody_reads() {
    const FRAMES: usize = 1000;
    struct Counts(std::sync::mpsc::Sender<Kind>);
    impl Receive for Counts {
        fn receive(&self, _: usize, header: &Header, body: &mut Body<'_>) -> Result<(), WireError> {
            body.take_bytes()?;
            self.0.send(header.kind).unwrap();
            Ok(())
        }
        fn cancel(&self) {}
    }
    let mut members = members(2);
    let (reader, reader_lead) = members.pop().unwrap();
    let (writer, writer_lead) = members.pop().unwrap();
    let generation = Generation {
        number: 1,
        members: vec![writer_lead.peer.clone(), reader_lead.peer.clone()],
    };
    let (received, frames) = channel();
    std::thread::scope(|scope| {
        let entering = scope.spawn(|| reader.enter(&generation, 0, 0).unwrap());
        let round = writer.enter(&generation, 0, 0).unwrap();
        let unread = entering.join().unwrap();
        // More than a socket holds: it is sent when the other process begins to take frames.
        let payload = vec![7; 64 << 20];
        let (begins, begun) = channel();
        let full = round.clone();
        let sending = scope.spawn(move || {
            begins.send(()).unwrap();
            full.send(1, Header::new(Kind::Parcel, [0; 6]), &[&payload]);
        });
        begun.recv().unwrap();
        (0..FRAMES).for_each(|_| round.send_soon(1, Header::new(Kind::Abandon, [0; 6])));
        round.send_soon(1, Header::new(Kind::Ring, [0; 6]));
        assert!(!sending.is_finished());
        assert!(unread.begin(Arc::new(Counts(received))));
        let kinds = (0..FRAMES + 2).map(|_| frames.recv_timeout(REPORT_TIME_MAX).unwrap());
        let kinds: Vec<Kind> = kinds.collect();
        let count = |kind: Kind| kinds.iter().filter(|other| **other == kind).count();
        assert_eq!([count(Kind::Abandon), count(Kind::Ring)], [FRAMES, 1]);
        sending.join().unwrap();
        // Whether one rings depends on time alone, and faults are planned by counts.
        assert_eq!(writer.shared.frames.load(Ordering::SeqCst), 1 + FRAMES as u64);
    });
}
