//! A fault of the core, planted between it and the world: what it would see and do if its code were wrong.
//! Upstream: none; after mutation testing.
//! Differs: nothing on purpose.

use kubelet::action::Action;
use kubelet::event::Event;

use super::{Coming, World, fails};

/// What becomes of an action that the core asked for.
#[derive(Debug)]
pub enum Asked {
    /// It is sent.
    Sent(Action),
    /// It is not sent; the core gets this answer.
    Answered(Action, Event),
}

type Sees = Box<dyn FnMut(Event) -> Option<Event>>;
type Does = Box<dyn FnMut(Action) -> Vec<Asked>>;

/// A planted fault. Proves that whatever it breaks is noticed.
pub struct Planted {
    sees: Sees,
    does: Does,
}

impl Planted {
    /// The core sees events otherwise than they are, or not at all.
    pub fn in_events(sees: impl FnMut(Event) -> Option<Event> + 'static) -> Self {
        Self { sees: Box::new(sees), does: Box::new(|action| vec![Asked::Sent(action)]) }
    }

    /// The core does otherwise than it says.
    pub fn in_actions(does: impl FnMut(Action) -> Vec<Asked> + 'static) -> Self {
        Self { sees: Box::new(Some), does: Box::new(does) }
    }
}

impl World {
    pub(super) fn seen(&mut self, event: Event) -> Option<Event> {
        match &mut self.planted {
            Some(planted) => (planted.sees)(event),
            None => Some(event),
        }
    }

    pub(super) fn ask(&mut self, action: Action) {
        let asked = match &mut self.planted {
            Some(planted) => (planted.does)(action),
            None => vec![Asked::Sent(action)],
        };
        for one in asked {
            match one {
                Asked::Sent(action) => self.send(action),
                Asked::Answered(action, event) => {
                    let takes = self.latency(&action.call);
                    let Some(life) = &mut self.life else { return };
                    life.in_flight.insert(action.id, fails(&action.call));
                    let life = life.number;
                    self.schedule(takes, Coming::Arrives { life, event: Box::new(event) });
                }
            }
        }
    }
}
