//! In builds that are broken on purpose: what one exchange met is made to befall others, which had no part in it. Nothing of
//! it is in any other build.

use super::parked::Parked;
use super::state::Exchange;
use super::worker::Proxy;
use crate::runtime::world::World;

impl<W: World<Parked = Parked>> Proxy<W> {
    /// Spoils an exchange that is about to begin, for what befell another.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "in a build that isn't broken it is nothing")]
    pub(super) fn spread(&self, exchange: &mut Exchange<'_, W>) {
        let _ = (self, &*exchange);
        #[cfg(feature = "sabotage-spread-failure")] // Broken on purpose: ./x sabotage
        if self.shared.failures.of(crate::observe::Reason::ClosedBeforeHead) > 0 {
            exchange.refuse(super::error::Failure::ClosedBeforeHead);
        }
        #[cfg(feature = "sabotage-spread-crowding")] // Broken on purpose: ./x sabotage
        if self.shared.failures.of(crate::observe::Reason::QueueTimeout) > 0 {
            exchange.refuse(super::error::Failure::QueueFull);
        }
        #[cfg(feature = "sabotage-spread-absence")] // Broken on purpose: ./x sabotage
        if self.shared.failures.of(crate::observe::Reason::NoBackend) > 0 {
            exchange.refuse(super::error::Failure::NoBackend);
        }
        #[cfg(feature = "sabotage-spread-delay")] // Broken on purpose: ./x sabotage
        if self.shared.failures.of(crate::observe::Reason::ClosedBeforeHead) > 0 {
            let stream = &exchange.client.stream;
            for _ in 0..25 {
                let until = self.world.now() + std::time::Duration::from_millis(200);
                while self.world.now() < until {
                    self.world.wait(stream, None, until);
                }
                let _ = crate::runtime::world::Stream::try_write(stream, &[]);
            }
        }
    }
}
