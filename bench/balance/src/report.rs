//! Tables, pictures and goals.

use std::fmt::Write;

use crate::scenario::Scenario;
use crate::simulation::Figures;

/// One row a contender.
pub fn table(scenario: &Scenario, figures: &[(&str, Figures)]) -> String {
    let ideal_ms = figures[0].1.quantile_ms(0.99);
    let mut text = String::from(
        "| strategy | p50 ms | p99 ms | p99 to the ideal | busiest to the mean | the first got |\n|---|---:|---:|---:|---:|---:|\n",
    );
    for (name, figures) in figures {
        let p99_ms = figures.quantile_ms(0.99);
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {:.2} | {:.1}% |",
            number(figures.quantile_ms(0.5)),
            number(p99_ms),
            number(p99_ms / ideal_ms),
            figures.busiest(),
            figures.first_percent(),
        );
    }
    let fair = scenario.servers[0].weight as f64 * 100.0
        / scenario.servers.iter().map(|server| f64::from(server.weight)).sum::<f64>();
    let _ = writeln!(text, "\nThe first backend's fair share by weight is {fair:.1}%.");
    text
}

/// Bars of each contender's p99, to the logarithm from 10 ms to 100 s, with a mark at its p50.
pub fn picture(heading: &str, figures: &[(&str, Figures)]) -> String {
    let (row_height, left, width, top) = (22, 130, 420.0, 34);
    let x = |ms: f64| (ms.max(1.0).log10() / 5.0 * width).min(width);
    let height = top + row_height * figures.len() + 24;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 {height}\" width=\"640\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"640\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">{heading}</text>\n"
    );
    for (row, (name, figures)) in figures.iter().enumerate() {
        let (y, p50, p99) = (top + row_height * row, figures.quantile_ms(0.5), figures.quantile_ms(0.99));
        let (middle, end) = (left as f64 + x(p50), left as f64 + x(p99));
        let colour = if *name == "ideal" { "#7f8c8d" } else { "#c0392b" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>\n\
             <rect x=\"{left}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\n\
             <line x1=\"{middle:.1}\" y1=\"{y}\" x2=\"{middle:.1}\" y2=\"{}\" stroke=\"white\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            left - 8,
            y + 14,
            x(p99),
            row_height - 4,
            y + row_height - 4,
            end + 6.0,
            y + 14,
            number(p99),
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"{}\" fill=\"#555\">p99 in ms, p50 as a white line; logarithmic from 1 ms to 100 s</text>\n</svg>",
        height - 8
    );
    svg
}

/// What should hold, each with the figure that was found.
#[derive(Default)]
pub struct Goals(Vec<(String, f64, f64)>);

impl Goals {
    /// Takes a scenario's figures in.
    pub fn hold(&mut self, scenario: &Scenario, figures: &[(&str, Figures)]) {
        let of = |name| &figures.iter().find(|(known, _)| *known == name).expect("a contender").1;
        let mut goal =
            |what: &str, found, at_most| self.0.push((format!("{}: {what}", scenario.heading), found, at_most));
        let is_blind = ["mixed", "weighted"].contains(&scenario.name);
        for name in ["p2c", "peak-ewma"].into_iter().filter(|_| !is_blind) {
            let found = of(name).quantile_ms(0.99) / of("ideal").quantile_ms(0.99);
            goal(&format!("p99 of {name} to the ideal's"), found, 1.3);
        }
        if scenario.name == "slow" {
            let got = &of("least-conn").got;
            let fast = got[1..].iter().copied().min().unwrap_or(0);
            goal("what least-conn gives the slow one, to what a fast one gets", got[0] as f64 / fast as f64, 0.2);
        }
        if scenario.name == "equal" {
            goal("what the busiest got by hash, to the mean", of("hash").busiest(), 1.25);
        }
    }

    pub fn table(&self) -> String {
        let mut text = String::from("\n### What was aimed at\n\n| aim | found | at most | |\n|---|---:|---:|---|\n");
        for (what, found, at_most) in &self.0 {
            let verdict = if found <= at_most { "met" } else { "**missed**" };
            let _ = writeln!(text, "| {what} | {found:.2} | {at_most} | {verdict} |");
        }
        text
    }
}

/// Three digits or so.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
