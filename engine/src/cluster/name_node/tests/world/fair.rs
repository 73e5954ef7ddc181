//! Runs without further faults.

use super::World;

impl World {
    /// Everybody does what there is to do, fairly and without faults, until the cluster ends.
    pub(in crate::cluster::name_node::tests) fn run_to_the_end(&mut self) {
        for _ in 0..20_000 {
            if self.finished.is_some() {
                return;
            }
            if !self.everybody_moves() {
                let wake = self.node.wake_at().expect("the name node waits for nothing");
                self.pass(wake.saturating_sub(self.now).min(self.options.lease / 4));
                while let Some(connection) = self.audible().first() {
                    self.hear(*connection);
                }
                self.tick();
            }
        }
        panic!("the cluster does not end: {:?}\n{:#?}", self.node, self.processes);
    }

    pub(in crate::cluster::name_node::tests) fn everybody_moves(&mut self) -> bool {
        let mut moved = false;
        for number in self.running() {
            moved |= self.processes[number].alive && self.step(number);
        }
        for connection in self.audible() {
            self.hear(connection);
            moved = true;
        }
        moved | self.reap()
    }
}
