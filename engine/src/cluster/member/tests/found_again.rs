//! Members whose name node dies and is started again, and what they tell it.

use bytes::Bytes;
use distdl_storage::remote::{CacheOptions, Stores, StoresOptions};

use super::*;
use crate::notices::Notices;

/// At the first action.
fn arrival(kind: ActionKind, state: LoopState) -> Report {
    let head = Head {
        action: 0,
        fingerprint: [0; 32],
        site: String::new(),
        kind,
    };
    let held = Inventory::new();
    Report::Arrive { head, held, state }
}

/// What a loop has come to since the arrival is what a name node that was started again must hear.
#[test]
fn an_arrival_is_told_again_with_what_there_is_by_then() {
    let (member, lead) = members(1).pop().unwrap();
    let state = |version| LoopState {
        versions: vec![version],
        origins: Origins::default(),
        shards: Vec::new(),
    };
    let kind = ActionKind::Iterate {
        dataset: DatasetId(0),
        rounds_max: 1,
        first_step: 0,
        lanes: 1,
        answer_bytes_max: 0,
    };
    member.arrive(arrival(kind, state(0)));
    assert!(matches!(lead.hear(), Report::Arrive { state: told, .. } if told == state(0)));
    let key = RoundKey {
        generation: 1,
        action: 0,
        round: 0,
    };
    let outcome = Outcome::Looped {
        finished: false,
        state: state(7),
        result: None,
    };
    let here = Inventory::from([(Asset::Dataset(DatasetId(3)), vec![1].into())]);
    member.ended(key, outcome, here.clone());
    let again = lock(&member.shared).arrival.clone();
    let Some(Report::Arrive { state: told, held, .. }) = again else {
        panic!("nothing to tell");
    };
    assert_eq!((told, held), (state(7), here));
}

#[test]
fn a_process_that_leaves_tells_a_name_node_that_is_started_again() {
    let cluster = Cluster::new();
    let (member, lead) = cluster.member(0, REPORT_TIME_MAX);
    let error = || Some("no such file".to_owned());
    let is_leave = |report: &Report| matches!(report, Report::Leave { error: told } if *told == error());
    let leaving = std::thread::spawn(move || member.leave(error()));
    assert!(is_leave(&lead.hear()));
    // It dies before that is in its journal.
    lead.socket.shutdown();
    let again = cluster.welcome_soon(MemberId(0));
    assert!(is_leave(&again.hear()));
    let heard = Order::Dismiss {
        reason: Dismissal::Over,
    };
    control::send(&*again.socket, &heard, MESSAGE_BYTES_MAX).unwrap();
    assert!(leaving.join().unwrap());
}

/// Or others fetch what this process has, in the first round after it.
#[test]
fn a_name_node_that_is_started_again_hears_what_is_here_before_the_arrival() {
    let cluster = Cluster::new();
    let (member, lead) = cluster.member(0, REPORT_TIME_MAX);
    let folder = tempfile::tempdir().unwrap();
    let options = StoresOptions {
        cache: Some(CacheOptions::new(folder.path())),
        ..StoresOptions::default()
    };
    let stores = Arc::new(Stores::with_options(options));
    member.share(&stores, &Arc::default());
    assert!(matches!(lead.hear(), Report::CacheFilter { .. }));
    lead.socket.shutdown();
    wait_until("the name node is missed", || lock(&member.shared).control.is_none());
    // Nobody hears this one.
    let kind = ActionKind::Compute {
        wanted: vec![0],
        dataset: DatasetId(0),
        rounds_max: 1,
    };
    member.arrive(arrival(kind, LoopState::default()));
    let again = cluster.welcome(MemberId(0));
    assert!(matches!(again.hear(), Report::CacheFilter { .. }));
    loop {
        match again.hear() {
            Report::Arrive { .. } => break,
            other => assert!(!matches!(other, Report::CacheFilter { .. })),
        }
    }
}

/// Or it would be taken for dead while code of users finds what there is to say.
#[test]
fn who_has_much_to_say_to_a_name_node_that_is_started_again_gives_signs_of_life() {
    let cluster = Cluster::new();
    let lease = Duration::from_millis(100);
    let (member, lead) = cluster.member_of(RUN, 0, REPORT_TIME_MAX, lease);
    let notices = Arc::<Notices>::default();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    notices.add(
        notices.number(),
        Arc::new(move || {
            let _ = may_go_on.lock().unwrap().recv();
            Some(Bytes::from_static(b"much"))
        }),
    );
    let stores = Arc::new(Stores::new());
    member.share(&stores, &notices);
    lead.socket.shutdown();
    let again = cluster.welcome(MemberId(0));
    let beats = [(); 2].map(|()| again.beats.recv_timeout(REPORT_TIME_MAX).is_ok());
    let is_silent = again.reports.try_recv().is_err();
    drop(go_on);
    assert_eq!((beats, is_silent), ([true; 2], true), "it has not said it before");
    loop {
        if let Report::Notices { said } = again.hear() {
            break assert_eq!(said.into_values().collect::<Vec<_>>(), [&b"much"[..]]);
        }
    }
}

/// Or the cluster would take one for a member that does nothing.
#[test]
fn who_dies_as_it_finds_the_name_node_again_is_no_member_of_it() {
    let cluster = Cluster::new();
    let (member, lead) = cluster.member(0, REPORT_TIME_MAX);
    lead.socket.shutdown();
    let again = meet(&cluster.listener, &cluster.credentials(), MemberId(0));
    member.vanisher().vanish();
    again.let_in();
    let heard = again.reports.recv_timeout(REPORT_TIME_MAX);
    assert!(
        matches!(heard, Err(std::sync::mpsc::RecvTimeoutError::Disconnected)),
        "{heard:?}"
    );
}

/// A name node that dies while it answers says no more than one that is another cluster's.
#[test]
fn a_name_node_that_dies_as_it_is_found_is_looked_for_again() {
    let cluster = Cluster::new();
    let join = cluster.join(0, Duration::ZERO);
    let joining = std::thread::spawn(move || {
        let chaos = Chaos::default().plan_for_slot(0, 0);
        Member::join(join, CAPACITY, chaos, Fate::Vanish).map(|member| member.id())
    });
    cluster.listener.accept().unwrap().shutdown();
    let _lead = cluster.welcome_soon(MemberId(0));
    assert_eq!(joining.join().unwrap().unwrap(), Some(MemberId(0)));
}

/// Of two handles, the one for the earlier action may be late.
#[test]
fn the_end_of_an_earlier_action_does_not_hide_that_of_a_later() {
    let (member, lead) = members(1).pop().unwrap();
    let canceller = member.canceller();
    for action in [1, 0] {
        canceller.cancel(action, EngineError::ProgramEnded);
        assert!(matches!(lead.hear(), Report::Cancel { action: told, .. } if told == action));
    }
    assert!(matches!(
        lock(&member.shared).cancel,
        Some(Report::Cancel { action: 1, .. })
    ));
}

/// What it has computed counts for nothing any more; one that has computed nothing may be anybody.
#[test]
fn a_process_is_somebody_else_for_another_name_node_only_before_its_first_round() {
    for has_taken_part in [false, true] {
        let cluster = Cluster::new();
        let (member, lead) = cluster.member(0, REPORT_TIME_MAX);
        let generation = Generation {
            number: 1,
            members: vec![lead.peer.clone()],
        };
        if has_taken_part {
            member.enter(&generation, 0, 0).unwrap();
        }
        lead.socket.shutdown();
        let again = cluster.welcome_soon(MemberId(9));
        if has_taken_part {
            let heard = again.reports.recv_timeout(REPORT_TIME_MAX);
            let is_closed = matches!(heard, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
            assert!(is_closed, "{heard:?}");
            assert!(matches!(member.next_order(), Err(EngineError::LeftCluster { .. })));
        } else {
            wait_until("it is somebody else", || member.id() == Some(MemberId(9)));
        }
    }
}
