//! Frames, links and blocks that come too late, and those who wait for them.

use distdl_storage::bloom::Bloom;
use distdl_storage::peers::Peers;

use super::*;
use crate::cluster::member::peer_cache::Others;
use crate::cluster::protocol::Source;

/// Takes frames, and says which.
struct Takes(std::sync::mpsc::Sender<(u32, Kind)>);

impl Receive for Takes {
    fn receive(&self, _: usize, header: &Header, _: &mut Body<'_>) -> Result<(), WireError> {
        self.0.send((header.round, header.kind)).unwrap();
        Ok(())
    }

    fn cancel(&self) {}
}

/// Both enter a round.
fn enter(members: &[Member], generation: &Generation, round: u32) -> Vec<Round> {
    std::thread::scope(|scope| {
        let entering = members
            .iter()
            .map(|member| scope.spawn(move || member.enter(generation, 0, round).unwrap()));
        let entering: Vec<_> = entering.collect();
        entering.into_iter().map(|entered| entered.join().unwrap()).collect()
    })
}

fn generation(number: u64, leads: &[Lead]) -> Generation {
    Generation {
        number,
        members: leads.iter().map(|lead| lead.peer.clone()).collect(),
    }
}

/// What is behind it on the link would wait as well: what the next round needs, or an answer.
#[test]
fn a_frame_of_a_round_that_is_over_here_is_waited_for_by_nobody() {
    let (members, leads): (Vec<Member>, Vec<Lead>) = members(2).into_iter().unzip();
    let generation = generation(1, &leads);
    members[1].serve(Arc::new(|_| Ok(Some(vec![7]))));
    let first = enter(&members, &generation, 0);
    members[1].ended(first[1].key, computed(), Inventory::new());
    first[0].send(1, Header::new(Kind::Abandon, [0; 6]), &[]);
    let (asked, answer) = channel();
    let asking = first[0].clone();
    std::thread::spawn(move || {
        let block = BlockId {
            dataset: 0,
            partition: 0,
        };
        asked.send(asking.fetch(1, block))
    });
    assert_eq!(answer.recv_timeout(REPORT_TIME_MAX), Ok(Ok(Some(vec![7]))));

    let second = enter(&members, &generation, 1);
    first[0].send(1, Header::new(Kind::Abandon, [0; 6]), &[]);
    second[0].send(1, Header::new(Kind::Parcel, [0; 6]), &[]);
    let (takes, taken) = channel();
    assert!(second[1].begin(Arc::new(Takes(takes))));
    assert_eq!(taken.recv_timeout(REPORT_TIME_MAX), Ok((1, Kind::Parcel)));
}

/// It would take the place of the one that serves.
#[test]
fn a_link_of_a_generation_that_is_over_here_is_not_taken() {
    let (members, leads): (Vec<Member>, Vec<Lead>) = members(2).into_iter().unzip();
    let rounds = enter(&members, &generation(2, &leads), 0);
    let late = members[1].shared.connect(MemberId(1), 1, &leads[0].peer);
    assert!(late.is_err());
    let (takes, taken) = channel();
    assert!(rounds[0].begin(Arc::new(Takes(takes))));
    rounds[1].send(0, Header::new(Kind::Parcel, [0; 6]), &[]);
    assert_eq!(taken.recv_timeout(REPORT_TIME_MAX), Ok((0, Kind::Parcel)));
}

#[test]
fn who_waits_for_a_block_is_let_go_when_the_round_is_cut_and_says_that_it_was() {
    let (members, leads): (Vec<Member>, Vec<Lead>) = members(2).into_iter().unzip();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    members[1].serve(Arc::new(move |_| {
        let _ = may_go_on.lock().unwrap().recv();
        Ok(None)
    }));
    let rounds = enter(&members, &generation(1, &leads), 0);
    let (asked, answer) = channel();
    let asking = rounds[0].clone();
    std::thread::spawn(move || {
        let block = BlockId {
            dataset: 0,
            partition: 0,
        };
        asked.send(asking.fetch(1, block))
    });
    wait_until("it asks", || !lock(&members[0].shared).fetches.is_empty());
    let cut = Order::Cut {
        generation: 1,
        lost: Vec::new(),
    };
    control::send(&*leads[0].socket, &cut, MESSAGE_BYTES_MAX).unwrap();
    assert_eq!(answer.recv_timeout(REPORT_TIME_MAX), Ok(Ok(None)));
    drop(go_on);
    members[0].ended(rounds[0].key, computed(), Inventory::new());
    assert!(matches!(leads[0].hear(), Report::Ended { cut: true, .. }));
}

/// The others wait for its fetch.
#[test]
fn a_turn_to_fetch_that_comes_when_nobody_waits_any_more_goes_on_to_the_next() {
    let (_member, lead) = members(1).pop().unwrap();
    let turn = Order::Found {
        request: 99,
        key: [7; 32],
        sources: Vec::new(),
    };
    control::send(&*lead.socket, &turn, MESSAGE_BYTES_MAX).unwrap();
    assert!(matches!(
        lead.hear(),
        Report::Brought {
            key: [7, ..],
            is_here: false
        }
    ));
}

/// Or the name node would name them for ever.
#[test]
fn who_was_asked_in_vain_is_named_to_the_name_node() {
    let (member, lead) = members(1).pop().unwrap();
    let key = [7; 32];
    let of = Source {
        member: MemberId(5),
        address: Address::Local("nobody is there".to_owned()),
    };
    let filter = Some(Bloom::of([key].iter(), 0.01).snapshot().unwrap().into());
    control::send(&*lead.socket, &Order::CacheFilter { of, filter }, MESSAGE_BYTES_MAX).unwrap();
    let others = Others(Arc::clone(&member.shared));
    wait_until("the filter is here", || {
        member.shared.peer_cache.is_told_of(MemberId(5))
    });
    let finding = std::thread::spawn(move || others.find(&key, b"a question"));
    let Report::Seek { request, tried, .. } = lead.hear() else {
        panic!("another report");
    };
    assert_eq!(tried, [MemberId(5)]);
    let sources = Vec::new();
    control::send(
        &*lead.socket,
        &Order::Found { request, key, sources },
        MESSAGE_BYTES_MAX,
    )
    .unwrap();
    assert_eq!(finding.join().unwrap(), None);
}
