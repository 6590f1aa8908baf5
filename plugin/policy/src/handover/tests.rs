//! Both sides with a model of the kubelet's clients: every hand-over, with either side killed before every action, and with the
//! giver's deadline before every action.

use super::Message;
use super::giver::{self, Giver};
use super::taker::{self, Taker};
use std::collections::{BTreeSet, VecDeque};

/// The kubelet's clients of one resource. A client is the number of its socket.
#[derive(Default)]
struct Kubelet {
    /// From 1.37 on: clients are kept by name and socket.
    newer: bool,
    clients: Vec<u32>,
    streams: BTreeSet<u32>,
    endpoint: Option<u32>,
    healthy: bool,
    gap: bool,
}

impl Kubelet {
    fn register(&mut self, socket: u32) {
        if !self.newer {
            self.clients.clear();
        }
        self.clients.push(socket);
        self.streams.insert(socket);
        (self.endpoint, self.healthy) = (Some(socket), true);
    }

    /// A registration that fails.
    fn void(&mut self) {
        if !self.newer {
            self.clients.clear();
        }
    }

    /// Ends a stream. Returns whether the kubelet closes its connection.
    fn end(&mut self, socket: u32) -> bool {
        if !self.streams.remove(&socket) {
            return true;
        }
        if self.newer {
            self.clients.retain(|client| *client != socket);
            self.endpoint = self.clients.last().copied().or(self.endpoint);
            self.healthy = !self.clients.is_empty();
        } else if let Some(evicted) = self.clients.pop() {
            self.streams.remove(&evicted);
            self.healthy = false;
        }
        self.gap |= !self.healthy;
        self.newer
    }
}

/// Which process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Giver,
    Taker,
}

/// What happens before an action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    Killed(Side),
    Deadline,
}

enum Event {
    Giver(giver::Input),
    Taker(taker::Input),
}

struct World {
    kubelet: Kubelet,
    giver: Giver,
    taker: Taker,
    alive: [bool; 2],
    /// The socket that each side has registered.
    sockets: [Option<u32>; 2],
    last_socket: u32,
    lock: Option<Side>,
    giver_waits: bool,
    connected: bool,
    events: VecDeque<Event>,
    actions: usize,
    fault: (usize, Fault),
}

const RESOURCE: &str = "nvidia.com/GPU";

impl World {
    fn new(newer: bool, fault: (usize, Fault)) -> Self {
        let mut world = Self {
            kubelet: Kubelet { newer, ..Kubelet::default() },
            giver: Giver::default(),
            taker: Taker::default(),
            alive: [true; 2],
            sockets: [None; 2],
            last_socket: 0,
            lock: Some(Side::Giver),
            giver_waits: false,
            connected: true,
            events: [Event::Taker(taker::Input::Connected)].into(),
            actions: 0,
            fault,
        };
        world.register(Side::Giver);
        world
    }

    fn is_alive(&self, side: Side) -> bool {
        self.alive[side as usize]
    }

    fn register(&mut self, side: Side) {
        self.last_socket += 1;
        self.kubelet.register(self.last_socket);
        self.sockets[side as usize] = Some(self.last_socket);
    }

    /// Ends the stream of a side. Returns whether the kubelet closes the connection.
    fn end(&mut self, side: Side) -> bool {
        self.sockets[side as usize].take().is_none_or(|socket| self.kubelet.end(socket))
    }

    /// Replaces a registration in the order that leaves no gap.
    fn renew(&mut self, side: Side) {
        let old = self.sockets[side as usize].take();
        self.register(side);
        self.kubelet.void();
        let closed = old.is_some_and(|socket| self.kubelet.end(socket));
        if !closed || !self.kubelet.newer {
            self.end(side);
            self.register(side);
        }
    }

    fn disconnect(&mut self, left: Side) {
        if std::mem::take(&mut self.connected) {
            self.events.push_back(match left {
                Side::Giver => Event::Taker(taker::Input::GiverLeft),
                Side::Taker => Event::Giver(giver::Input::TakerLeft),
            });
        }
    }

    fn kill(&mut self, side: Side) {
        self.alive[side as usize] = false;
        self.end(side);
        self.disconnect(side);
        if self.lock == Some(side) {
            self.lock = None;
        }
    }

    /// Plays the fault that comes before this action. Returns whether the side can still act.
    fn may_act(&mut self, side: Side) -> bool {
        if self.actions == self.fault.0 {
            match self.fault.1 {
                Fault::None => {}
                Fault::Killed(killed) => self.kill(killed),
                Fault::Deadline => self.events.push_front(Event::Giver(giver::Input::TakerLeft)),
            }
        }
        self.actions += 1;
        self.is_alive(side)
    }

    fn of_giver(&mut self, action: giver::Action) {
        use giver::{Action, Input};
        match action {
            Action::HoldAllocates => self.events.push_back(Event::Giver(Input::Drained)),
            Action::Send(message) if self.connected => {
                self.events.push_back(Event::Taker(taker::Input::Received(message)));
            }
            Action::Disconnect => self.disconnect(Side::Giver),
            Action::EndStreams => {
                let kept = if self.end(Side::Giver) { Vec::new() } else { vec![RESOURCE.into()] };
                self.events.push_back(Event::Giver(Input::StreamsEnded { kept }));
            }
            Action::RegisterAgain => self.renew(Side::Giver),
            Action::ReleaseLock => self.lock = None,
            Action::AwaitLock => self.giver_waits = true,
            Action::Send(_)
            | Action::HoldRegistrations
            | Action::AnswerAllocates
            | Action::RefuseAllocates
            | Action::EndServers => {}
        }
    }

    fn of_taker(&mut self, action: taker::Action) {
        use taker::{Action, Input};
        match action {
            Action::Send(message) if self.connected => {
                self.events.push_back(Event::Giver(giver::Input::Received(message)));
            }
            Action::TryLock => {
                let free = self.lock.is_none();
                if free {
                    self.lock = Some(Side::Taker);
                }
                let input = if free { Input::LockTaken } else { Input::LockHeld };
                self.events.push_back(Event::Taker(input));
            }
            Action::Start => {
                self.register(Side::Taker);
                self.events.push_back(Event::Taker(Input::AllRegistered));
            }
            Action::Void => {
                self.kubelet.void();
                self.events.push_back(Event::Taker(Input::Voided));
            }
            Action::Renew(kept) => {
                if !kept.is_empty() {
                    self.end(Side::Taker);
                    self.register(Side::Taker);
                }
            }
            Action::RenewAll => self.renew(Side::Taker),
            Action::Disconnect => self.disconnect(Side::Taker),
            Action::Withdraw => {
                self.end(Side::Taker);
                if self.is_alive(Side::Giver) {
                    self.connected = true;
                    self.events.push_back(Event::Taker(Input::Connected));
                }
            }
            Action::Send(_) | Action::AnswerAllocates => {}
        }
    }

    /// Checks what holds at every moment.
    fn check(&self) {
        let giver = self.is_alive(Side::Giver) && self.giver.answers();
        let taker = self.is_alive(Side::Taker) && self.taker.answers();
        assert!(!(giver && taker), "both answer Allocate");
        assert!(!giver || self.lock == Some(Side::Giver), "the giver answers without the lock");
        assert!(!taker || self.lock == Some(Side::Taker), "the taker answers without the lock");
    }

    /// A side that the kubelet has disconnected registers again, as its registration does at any time.
    fn follow(&mut self) {
        for side in [Side::Giver, Side::Taker] {
            let evicted =
                self.sockets[side as usize].is_some_and(|socket| !self.kubelet.streams.contains(&socket));
            if self.is_alive(side) && evicted {
                self.register(side);
            }
        }
    }

    /// Plays until nothing more happens.
    fn play(&mut self) {
        loop {
            if self.giver_waits && self.lock.is_none() && self.is_alive(Side::Giver) && self.events.is_empty()
            {
                (self.giver_waits, self.lock) = (false, Some(Side::Giver));
                self.events.push_back(Event::Giver(giver::Input::LockTaken));
            }
            let Some(event) = self.events.pop_front() else { return };
            match event {
                Event::Giver(input) if self.is_alive(Side::Giver) => {
                    for action in self.giver.take(input) {
                        if self.may_act(Side::Giver) {
                            self.of_giver(action);
                        }
                        self.check();
                    }
                }
                Event::Taker(input) if self.is_alive(Side::Taker) => {
                    for action in self.taker.take(input) {
                        if self.may_act(Side::Taker) {
                            self.of_taker(action);
                        }
                        self.check();
                    }
                }
                Event::Giver(_) | Event::Taker(_) => {}
            }
            self.follow();
            assert!(self.actions < 100, "the two never come to an end");
        }
    }

    /// Returns the side that answers in the end. Checks that the kubelet calls it and would notice its end.
    fn end_state(&self) -> Side {
        let giver = self.is_alive(Side::Giver) && self.giver.answers();
        let side = if giver { Side::Giver } else { Side::Taker };
        assert!(
            giver || self.is_alive(Side::Taker) && self.taker.answers(),
            "neither answers: {:?} {:?}",
            self.giver,
            self.taker
        );
        let socket = self.sockets[side as usize];
        assert!(self.kubelet.healthy, "the devices are unhealthy");
        assert_eq!(self.kubelet.endpoint, socket, "the kubelet calls another process");
        assert_eq!(self.kubelet.clients, Vec::from_iter(socket), "the kubelet does not notice its end");
        side
    }
}

/// Plays one hand-over.
fn played(newer: bool, fault: (usize, Fault)) -> World {
    let mut world = World::new(newer, fault);
    world.play();
    world
}

#[test]
fn hand_over_leaves_no_gap_with_either_kubelet() {
    for newer in [false, true] {
        let world = played(newer, (usize::MAX, Fault::None));
        assert_eq!(world.end_state(), Side::Taker);
        assert!(!world.kubelet.gap, "newer: {newer}");
        assert_eq!(world.giver, Giver::Retired);
    }
}

#[test]
fn survivor_serves_whichever_side_is_killed_at_any_action() {
    for newer in [false, true] {
        let actions = played(newer, (usize::MAX, Fault::None)).actions;
        for (action, killed) in (0..actions).flat_map(|action| [(action, Side::Giver), (action, Side::Taker)])
        {
            println!("newer kubelet {newer}, {killed:?} killed before action {action}");
            let world = played(newer, (action, Fault::Killed(killed)));
            let survivor = if killed == Side::Giver { Side::Taker } else { Side::Giver };
            assert_eq!(world.end_state(), survivor);
        }
    }
}

#[test]
fn deadline_at_any_action_leaves_one_process_that_serves() {
    for newer in [false, true] {
        let actions = played(newer, (usize::MAX, Fault::None)).actions;
        for action in 0..actions {
            println!("newer kubelet {newer}, deadline before action {action}");
            played(newer, (action, Fault::Deadline)).end_state();
        }
    }
}

#[test]
fn message_out_of_order_changes_nothing() {
    let mut giver = Giver::default();
    assert!(giver.take(giver::Input::Received(Message::Registered)).is_empty());
    assert!(giver.take(giver::Input::Received(Message::Ready)).is_empty());
    assert!(giver.answers());
    let mut taker = Taker::default();
    assert!(taker.take(taker::Input::Received(Message::Ended { kept: Vec::new() })).is_empty());
    assert_eq!(taker, Taker::Asking);
}
