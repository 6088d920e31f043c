//! What happened in many runs, as numbers: which faults struck, how the proxy's exchanges failed, which promises were
//! checked, and which of them were broken.

use std::fmt;

use maypole::observe::Reason;

/// Defines an enum whose every variant is counted, from its variants and what the report calls them, so that no list of
/// them can fall behind.
macro_rules! counted {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $words:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($variant,)+
        }

        impl $name {
            /// Each of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub const fn words(self) -> &'static str {
                match self {
                    $(Self::$variant => $words,)+
                }
            }
        }
    };
}

counted! {
    /// What the simulated world does to the proxy. Counted when it strikes, not when it is planned.
    Fault {
        ClientSplits = "client sends a request in pieces",
        ClientTrickles = "client sends a request too slowly",
        ClientPipelines = "client sends before it has its answer",
        ClientFloods = "client pipelines hundreds of requests that the proxy answers itself",
        ClientStalls = "client sends no more and stays",
        ClientHalfCloses = "client closes its sending side",
        ClientLeaves = "client closes",
        ClientResets = "client resets",
        ClientTarries = "client keeps half a request or answer waiting until it is parked",
        ClientReadsNothing = "client doesn't read its answer",
        ClientBabbles = "client sends what is no request",
        ClientMalforms = "client sends a malformed head",
        ClientConflicts = "client sends conflicting framing",
        ClientBreaksChunks = "client sends malformed chunks",
        ClientOverdoesHead = "client sends a head, fields or target over the limit",
        ClientOverdoesBody = "client sends a body over the limit",
        ClientAsksTooMuch = "client asks for what isn't served",
        ClientLoops = "client sends a request that has come by too often",
        ClientMutates = "client sends a request with bytes changed",
        ClientResumes = "client resumes a session",
        ClientSealsSmall = "clients' records are small",
        ClientCorrupts = "client sends a record that can't be opened",
        ClientTears = "client closes without close_notify",
        ClientEndsAndStays = "client says close_notify and stays",
        ClientSpeaksClear = "client speaks in clear where TLS is spoken",
        ClientBreaksHandshake = "client sends what is no handshake",
        ClientStallsHandshake = "client stalls in its handshake",
        ClientLeavesHandshake = "client leaves in its handshake",
        ClientDistrusts = "client doesn't trust the certificate",
        ClientMistakesHost = "client asks for another certificate's host",
        TunnelStalls = "tunnel falls silent",
        TunnelIsCut = "tunnel is cut by its client",
        TunnelHalfCloses = "tunnel is half-closed by its client",
        TunnelEndsAtBackend = "tunnel is ended by its backend",
        BackendSplits = "backend answers in pieces",
        BackendAnswersEarly = "backend answers before the request's end",
        BackendSwitchesEarly = "backend switches protocols before the request's end",
        BackendStalls = "backend sends no more and stays",
        BackendCloses = "backend closes within an exchange",
        BackendResets = "backend resets within an exchange",
        BackendGivesUpReading = "backend gives up on a client that sends no more",
        BackendGivesUpWriting = "backend gives up on a client that doesn't read",
        BackendClosesIdle = "backend closes a connection that waits for its next request",
        BackendBabbles = "backend sends what is no answer",
        BackendConflicts = "backend sends conflicting framing",
        BackendBreaksChunks = "backend sends malformed chunks",
        BackendOverdoesHead = "backend sends a head or fields over the limit",
        BackendFloods = "backend sends interim answers without end",
        BackendSwitches = "backend switches protocols unasked",
        BackendAddsBytes = "backend sends bytes behind its answer",
        BackendSealsSmall = "backends' records are small",
        BackendCorrupts = "backend sends a record that can't be opened",
        BackendTears = "backend closes without close_notify",
        BackendEndsAndStays = "backend says close_notify and stays",
        BackendUntrusted = "backend shows a certificate that isn't trusted",
        BackendRefuses = "backend refuses a handshake",
        BackendRefusesLate = "backend refuses a session behind its handshake",
        BackendSpeaksClear = "backend answers a handshake in clear",
        BackendLeavesHandshake = "backend leaves in a handshake",
        BackendStallsHandshake = "backend stalls in a handshake",
        BackendResumes = "a session with a backend is resumed",
        BackendMutates = "backend sends an answer with bytes changed",
        BackendCrashes = "backend crashes",
        BackendRestarts = "backend restarts",
        ConnectRefused = "connecting is refused",
        ConnectTimesOut = "connecting leads nowhere",
        ConnectUnroutable = "connecting finds no route",
        ConnectForbidden = "connecting isn't permitted",
        ConnectNoPort = "connecting finds no local port",
        ConnectNoDescriptor = "connecting finds no descriptor",
        NameHasNoAddress = "a backend's name loses its addresses",
        BackendRemoved = "admin removes a backend",
        BackendAdded = "admin adds a backend again",
        BackendDrained = "admin drains a backend or makes it ready",
        BackendWidened = "admin gives a backend more room",
        HealthDown = "health check takes a backend out",
        HealthUp = "health check brings a backend back",
        BreakerTripsInARow = "circuit breaker trips by failures in a row",
        BreakerTripsByShare = "circuit breaker trips by their share",
        TrialFails = "a backend fails its trial",
        BreakerCloses = "a backend passes its trials",
        TooManyTrip = "too many circuit breakers trip, so that none counts",
        ProxyDrains = "proxy is told to stop",
        PlanSwapped = "another plan comes into force",
        BackendsHeldAnew = "connections to backends are encrypted by something else from then on",
        CoroutinesLack = "no coroutine is free for a connection",
        CoroutinePanics = "coroutine panics",
        WriteStopsShort = "network takes a part of a write",
        WakesForNothing = "wait ends for no reason",
        ResetOvertakes = "reset overtakes bytes on their way",
        PipeLacks = "no pipe is to be had for a body",
        PipeFails = "pipe doesn't work",
        PipeStopsShort = "pipe takes or gives less than there is",
    }
}

counted! {
    /// What must hold in every run. Counted when it is checked.
    Promise {
        AnswersBelong = "each answer belongs to its request",
        AnswerBodies = "no byte of an answer is lost, doubled or reordered",
        RequestBodies = "no byte of a request is lost, doubled or reordered",
        CutAnswers = "a cut answer never looks whole",
        CutRequests = "a cut request never looks whole",
        SubmittedOnce = "no non-idempotent request reaches backends twice",
        TriesBounded = "no request is tried more often than allowed",
        RefusedStaysOut = "what is refused reaches no backend",
        OwnAnswers = "the proxy answers for itself only where it must",
        Counted = "each answer of its own is counted as a failure",
        Recorded = "what has become of each request is written down once, as it was",
        Answered = "each request is answered, or its connection ends",
        Prompt = "no exchange stands still for longer than its own peers make it",
        Heads = "heads are rewritten as they should be",
        OnePlan = "each request is served to its end by the plan that it began under",
        NewestPlan = "each request begins under the plan that is in force when its head is there",
        WellFormed = "all that the proxy sends is well-formed",
        SessionsStay = "a session stays at its backend while that one may serve it",
        LoginsAreOnes = "a backend's connection that a client has logged in on serves no other client",
        HeldAnew = "what was encrypted by something else before serves no new request",
        LoginsStay = "a client that has logged in stays on its connection while both sides keep it",
        SessionsTold = "an answer binds its client to its backend where it isn't bound, and only there",
        RemovedGetsNothing = "a removed backend gets no new request",
        BreakersAgree = "circuit breakers are where the control plane knows them to be",
        EjectedGetsNothing = "an ejected backend gets no new request",
        ClientsBlamed = "no backend is judged by what its clients do",
        InFlight = "requests in flight return to zero",
        Seats = "client connections return to zero",
        Parked = "parked connections return to zero",
        Streams = "open sockets return to zero",
        Bounded = "no backend has more requests at once than it may",
        Queued = "requests that wait return to zero",
        HandshakesCounted = "each handshake is counted once",
        TlsEnds = "a stream ends by close_notify unless it is cut",
        Handshakes = "handshakes in progress return to zero",
        Pools = "pooled connections return to zero",
        Buffers = "buffers return to their free lists",
        Pipes = "pipes return to their worker",
        Timers = "timers return to zero",
        TakenUp = "every connection that needs a coroutine gets one",
        WaitsAside = "no wait keeps a coroutine for long",
        Coroutines = "every coroutine comes to its end",
        Deadlines = "nothing waits without a deadline",
        OneWaiter = "a socket has one waiter",
        Turns = "nothing spins, and housekeeping never waits",
        GivesWay = "no coroutine keeps its worker from the others",
        NoPanics = "nothing panics",
    }
}

/// A promise that was broken, and how.
#[derive(Clone, Debug)]
pub struct Wrong {
    pub promise: Promise,
    pub what: String,
}

impl Wrong {
    pub fn new(promise: Promise, what: impl Into<String>) -> Self {
        Self { promise, what: what.into() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise.words(), self.what)
    }
}

/// Counts, added up over runs.
#[derive(Clone, Debug)]
pub struct Tally {
    pub runs: u64,
    pub exchanges: u64,
    pub answers: u64,
    faults: [u64; Fault::ALL.len()],
    failures: [u64; Reason::ALL.len()],
    checks: [u64; Promise::ALL.len()],
    broken: [u64; Promise::ALL.len()],
}

impl Tally {
    pub const fn new() -> Self {
        Self {
            runs: 0,
            exchanges: 0,
            answers: 0,
            faults: [0; Fault::ALL.len()],
            failures: [0; Reason::ALL.len()],
            checks: [0; Promise::ALL.len()],
            broken: [0; Promise::ALL.len()],
        }
    }

    pub fn struck(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    pub fn checked(&mut self, promise: Promise, times: u64) {
        self.checks[promise as usize] += times;
    }

    pub fn broke(&mut self, promise: Promise) {
        self.broken[promise as usize] += 1;
    }

    /// Adds what the proxy has counted of its failures.
    pub fn failed(&mut self, failures: &[(Reason, u64)]) {
        for (reason, times) in failures {
            self.failures[*reason as usize] += times;
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.exchanges += other.exchanges;
        self.answers += other.answers;
        let add = |into: &mut [u64], from: &[u64]| into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
        add(&mut self.faults, &other.faults);
        add(&mut self.failures, &other.failures);
        add(&mut self.checks, &other.checks);
        add(&mut self.broken, &other.broken);
    }

    /// Promises broken, counted once for each time.
    pub fn violated(&self) -> u64 {
        self.broken.iter().sum()
    }

    /// What never happened, of all that should have.
    pub fn missing(&self) -> Vec<&'static str> {
        let faults = Fault::ALL.iter().zip(&self.faults).map(|(fault, times)| (fault.words(), times));
        let failures = Reason::ALL.iter().zip(&self.failures).map(|(reason, times)| (reason.label(), times));
        let checks = Promise::ALL.iter().zip(&self.checks).map(|(promise, times)| (promise.words(), times));
        faults.chain(failures).chain(checks).filter(|(_, times)| **times == 0).map(|(words, _)| words).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |counts: &[u64]| counts.iter().sum::<u64>();
        writeln!(f, "faults by kind:")?;
        for (fault, times) in Fault::ALL.iter().zip(&self.faults) {
            writeln!(f, "{times:>12}  {}", fault.words())?;
        }
        writeln!(f, "failed exchanges by reason:")?;
        for (reason, times) in Reason::ALL.iter().zip(&self.failures) {
            writeln!(f, "{times:>12}  {}", reason.label())?;
        }
        writeln!(f, "promises checked:")?;
        for ((promise, times), broken) in Promise::ALL.iter().zip(&self.checks).zip(&self.broken) {
            let broken = if *broken > 0 { format!(", broken {broken} times") } else { String::new() };
            writeln!(f, "{times:>12}  {}{broken}", promise.words())?;
        }
        write!(
            f,
            "seeds {}, exchanges {}, answers {}, faults {}, failures {}, checks {}, violated {}",
            self.runs,
            self.exchanges,
            self.answers,
            sum(&self.faults),
            sum(&self.failures),
            sum(&self.checks),
            self.violated(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_missing_until_it_has() {
        let mut tally = Tally::new();
        let all = Fault::ALL.len() + Reason::ALL.len() + Promise::ALL.len();
        assert_eq!(tally.missing().len(), all);
        let mut run = Tally::new();
        run.struck(Fault::ClientResets);
        run.checked(Promise::InFlight, 2);
        run.failed(&[(Reason::ClientGone, 1), (Reason::Dns, 0)]);
        tally.add(&run);
        assert_eq!(tally.missing().len(), all - 3);
        assert_eq!(tally.violated(), 0);
        tally.broke(Promise::InFlight);
        assert_eq!(tally.violated(), 1);
    }

    #[test]
    fn kinds_stand_at_their_numbers_and_have_words_of_their_own() {
        for (number, fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(*fault as usize, number);
        }
        for (number, promise) in Promise::ALL.iter().enumerate() {
            assert_eq!(*promise as usize, number);
        }
        let words: std::collections::BTreeSet<_> =
            Fault::ALL.iter().map(|fault| fault.words()).chain(Promise::ALL.iter().map(|p| p.words())).collect();
        assert_eq!(words.len(), Fault::ALL.len() + Promise::ALL.len());
    }
}
