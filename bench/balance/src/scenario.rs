//! What the strategies are tried on.

/// Nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// Backends, what comes to them, and what happens to them.
pub struct Scenario {
    /// Names its picture.
    pub name: &'static str,
    pub heading: &'static str,
    /// What is going on, for the reader.
    pub story: &'static str,
    pub servers: Vec<Server>,
    /// Requests a second, coming at random (a Poisson process).
    pub rate: f64,
    /// Only requests that come within this time are counted.
    pub measured: std::ops::Range<u64>,
    pub slow_start: u64,
    /// How unequal clients are: the n-th of [`CLIENTS`] sends in proportion to 1/n to the power of this.
    pub skew: f64,
}

/// How many clients requests come from.
pub const CLIENTS: usize = 10_000;

/// A backend: so many requests at once, the others wait in their order.
#[derive(Clone)]
pub struct Server {
    /// Of requests that it works on at once.
    pub slots: usize,
    /// How much faster it works than one at which a request takes [`WORK`] on the average.
    pub speed: f64,
    pub weight: u32,
    pub trouble: Trouble,
}

/// How long a request takes on the average, exponentially distributed, at speed 1.
pub const WORK: f64 = 10_000_000.0;

#[derive(Clone, Copy)]
pub enum Trouble {
    None,
    /// Stands still for `lasting`, once in every `every`; it is out of rotation from `noticed` after the beginning of
    /// each stop until its end.
    Stops {
        every: u64,
        lasting: u64,
        noticed: u64,
    },
    /// Is away for a while, and comes back cold: at a tenth of its speed, which it has again after `warm_after` requests.
    Returns {
        gone: u64,
        back: u64,
        warm_after: u64,
    },
}

const SOUND: Server = Server { slots: 8, speed: 1.0, weight: 1, trouble: Trouble::None };

pub fn scenarios() -> Vec<Scenario> {
    let ten = |first: Server| [vec![first], vec![SOUND; 9]].concat();
    let mixed = |weights: [u32; 3]| {
        let of = |speed, weight| Server { speed, weight, ..SOUND };
        [vec![of(1.0, weights[0]); 4], vec![of(0.5, weights[1]); 4], vec![of(0.25, weights[2]); 4]].concat()
    };
    let recovery = Trouble::Returns { gone: 10 * SECOND, back: 20 * SECOND, warm_after: 3_000 };
    let base = Scenario {
        name: "equal",
        heading: "Ten equal backends",
        story: "Each works on 8 requests at once, 10 ms each on the average. The load is 70% of what they can bear together.",
        servers: ten(SOUND),
        rate: 5_600.0,
        measured: 5 * SECOND..65 * SECOND,
        slow_start: 0,
        skew: 0.0,
    };
    vec![
        Scenario { servers: ten(SOUND), ..base_of(&base) },
        Scenario {
            name: "mixed",
            heading: "Backends of three speeds, weights unsaid",
            story: "Four backends at full speed, four at half, and four at a quarter of it, all of weight 1, under 60% of what \
                    they can bear together.",
            servers: mixed([1, 1, 1]),
            rate: 3_360.0,
            ..base_of(&base)
        },
        Scenario {
            name: "weighted",
            heading: "Backends of three speeds, weights said",
            story: "The same with weights of 4, 2 and 1.",
            servers: mixed([4, 2, 1]),
            rate: 3_360.0,
            ..base_of(&base)
        },
        Scenario {
            name: "slow",
            heading: "One of ten is ten times slower",
            story: "Its health checks pass all the same. The load is 60% of what the nine others can bear.",
            servers: ten(Server { speed: 0.1, ..SOUND }),
            rate: 4_320.0,
            ..base_of(&base)
        },
        Scenario {
            name: "slow-of-twenty",
            heading: "One of twenty is ten times slower",
            story: "The same with nineteen others.",
            servers: [vec![Server { speed: 0.1, ..SOUND }], vec![SOUND; 19]].concat(),
            rate: 9_120.0,
            ..base_of(&base)
        },
        Scenario {
            name: "flapping",
            heading: "One of ten flaps",
            story: "It stands still for 2 s of every 5, and is out of rotation for the last 1.5 s of these. The load is 60% of \
                    what the ten can bear.",
            servers: ten(Server {
                trouble: Trouble::Stops { every: 5 * SECOND, lasting: 2 * SECOND, noticed: SECOND / 2 },
                ..SOUND
            }),
            rate: 4_800.0,
            ..base_of(&base)
        },
        Scenario {
            name: "recovery",
            heading: "One of four comes back cold",
            story: "After 10 s away it begins at a tenth of its speed, and has all of it once it has had 3,000 requests. \
                    The figures are of the 10 s after its return, under 60% of what the four can bear.",
            servers: [vec![Server { trouble: recovery, ..SOUND }], vec![SOUND; 3]].concat(),
            rate: 1_920.0,
            measured: 20 * SECOND..30 * SECOND,
            ..base_of(&base)
        },
        Scenario {
            name: "slow-start",
            heading: "One of four comes back cold, with a slow start",
            story: "The same with `slow_start` of 10 s.",
            servers: [vec![Server { trouble: recovery, ..SOUND }], vec![SOUND; 3]].concat(),
            rate: 1_920.0,
            measured: 20 * SECOND..30 * SECOND,
            slow_start: 10 * SECOND,
            ..base_of(&base)
        },
        Scenario {
            name: "hot",
            heading: "Some clients are much busier than others",
            story: "The n-th of 10,000 clients sends in proportion to 1/n: the first sends every tenth request. Ten equal backends \
                    under 60%.",
            servers: ten(SOUND),
            rate: 4_800.0,
            skew: 1.0,
            ..base_of(&base)
        },
    ]
}

/// The base without its servers, which every scenario brings.
fn base_of(base: &Scenario) -> Scenario {
    Scenario { servers: Vec::new(), measured: base.measured.clone(), ..*base }
}
