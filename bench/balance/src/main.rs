//! Compares maypole's strategies over simulated backends, in virtual time and with a fixed seed: every run gives the same
//! figures. What picks is the product's own `balance`; what is picked from, and all time and chance, is made up here.
//!
//! Writes the tables and pictures of `docs/BALANCING.md`; `./x balance` runs it.

mod report;
mod scenario;
mod simulation;

use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

use maypole::balance::{HashKey, Policy, Strategy};

use report::{Goals, picture, table};
use scenario::{Scenario, scenarios};
use simulation::{Figures, simulate};

/// What stands behind it is written by this program.
const MARK: &str = "<!-- written by ./x balance -->";

/// Who picks: a strategy, or one who knows everything.
pub enum Contender {
    /// Sends each request where it will be answered soonest, knowing what every backend will do. No proxy can.
    Ideal,
    /// The product, under the name that the tables give it.
    Product(&'static str, Policy),
}

impl Contender {
    fn name(&self) -> &'static str {
        match self {
            Self::Ideal => "ideal",
            Self::Product(name, _) => name,
        }
    }
}

fn contenders() -> Vec<Contender> {
    let plain = |name, strategy| Contender::Product(name, Policy::of(strategy));
    let hash = |balance_factor| Policy { balance_factor, ..Policy::of(Strategy::Hash(HashKey::ClientIp)) };
    vec![
        Contender::Ideal,
        plain("round-robin", Strategy::RoundRobin),
        plain("least-conn", Strategy::LeastConn),
        plain("p2c", Strategy::P2c),
        plain("peak-ewma", Strategy::PeakEwma),
        plain("random", Strategy::Random),
        Contender::Product("hash", hash(Some(1.25))),
        Contender::Product("hash, no bound", hash(None)),
    ]
}

fn main() -> ExitCode {
    let Some(docs) = std::env::args().nth(1) else {
        eprintln!("usage: balance DOCS-FOLDER");
        return ExitCode::from(2);
    };
    match write(Path::new(&docs)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("balance: {docs}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the figures behind the mark in `BALANCING.md`, and the pictures beside it.
fn write(docs: &Path) -> io::Result<()> {
    let page = docs.join("BALANCING.md");
    let text = fs::read_to_string(&page)?;
    let (before, _) = text.split_once(MARK).ok_or_else(|| io::Error::other(format!("it lacks {MARK}")))?;
    let mut text = format!("{before}{MARK}\n");
    let mut goals = Goals::default();
    for scenario in scenarios() {
        let figures: Vec<_> =
            contenders().iter().map(|contender| (contender.name(), simulate(&scenario, contender))).collect();
        goals.hold(&scenario, &figures);
        let picture_file = format!("balancing/{}.svg", scenario.name);
        fs::write(docs.join(&picture_file), picture(scenario.heading, &figures))?;
        text += &section(&scenario, &figures, &picture_file);
    }
    text += &goals.table();
    fs::write(page, text)
}

fn section(scenario: &Scenario, figures: &[(&str, Figures)], picture_file: &str) -> String {
    let Scenario { heading, story, .. } = scenario;
    format!("\n### {heading}\n\n{story}\n\n{}\n![{heading}]({picture_file})\n", table(scenario, figures))
}
