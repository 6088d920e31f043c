//! What is known of a request once its head was read.

use std::rc::Rc;

use super::bound::Bound;
use super::error_answer::Representation;
use super::request_id::RequestId;
use super::sticky::CookieDue;
use super::throttle::Allowance;
use crate::http1::{Framing, HopTrailers, Method, Request, Version};
use crate::plan::{RequestRules, Route};
use crate::policy::Quota;

/// What an exchange has to remember of a request.
#[derive(Clone)]
pub(super) struct Facts {
    /// The plan that it began under, and ends under.
    pub(super) bound: Rc<Bound>,
    /// The same at each try.
    pub(super) id: RequestId,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) framing: Framing,
    /// What `Connection` keeps from going further behind its body.
    pub(super) hop_trailers: Option<HopTrailers>,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    /// The protocols that it offers to switch to.
    pub(super) offers: Option<Rc<[u8]>>,
    /// It logs in by a scheme that authenticates the connection to the backend.
    pub(super) binds: bool,
    /// What an error answer should look like; None: the head, which stays in the buffer, tells.
    pub(super) representation: Option<Representation>,
    /// What the client has left of its rate, if that is limited.
    pub(super) quota: Option<Quota>,
    /// What its answer has to tell of its session; another try may go elsewhere, and change it.
    pub(super) cookie: CookieDue,
}

impl Facts {
    /// Of a request whose head isn't known, which can only be refused.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it makes is large, and is to be made in its place")]
    pub(super) fn unknown(bound: Rc<Bound>) -> Self {
        Self {
            bound,
            id: RequestId::NONE,
            method: Method::Other,
            version: Version::Http11,
            framing: Framing::None,
            hop_trailers: None,
            keep_alive: false,
            expects_continue: false,
            offers: None,
            binds: false,
            representation: Some(Representation::Text),
            quota: None,
            cookie: CookieDue::No,
        }
    }

    /// Takes in what a request's head says.
    #[inline]
    pub(super) fn read(&mut self, request: &Request<'_, '_>) {
        self.method = request.method;
        self.version = request.version;
        self.framing = request.framing;
        self.hop_trailers = request.hop_trailers();
        self.keep_alive = request.keep_alive;
        self.expects_continue = request.expect_continue;
        self.offers = request.upgrade.map(Rc::from);
        self.binds = request.binds_connection;
        self.representation = request.framing.has_body().then(|| Representation::of(request.values("accept")));
    }

    /// Where the request goes, and by which rules.
    #[inline]
    pub(super) fn route(&self) -> &Route {
        &self.bound.route
    }

    /// What an answer says of its client's rate.
    pub(super) fn allowance(&self) -> Option<Allowance<'_>> {
        let quota = self.quota?;
        Some(Allowance::new(self.route().throttle.as_ref()?, quota))
    }

    #[inline]
    pub(super) fn rules(&self) -> &RequestRules {
        &self.bound.route.rules
    }
}
