//! Tables of the page.

use super::text::{mean, number, or_unknown};
use crate::report::{Report, TopRow, WhatIfCell};
use maud::{Markup, html};

/// Records past each gate. The bars are as long as the logarithm: each gate takes away most of what comes.
pub(super) fn funnel(report: &Report) -> Markup {
    let most = report.funnel.first().map_or(1, |gate| gate.records.max(2)) as f64;
    let before = [None].into_iter().chain(report.funnel.iter().map(|gate| Some(gate.records)));
    html! {
        section id="funnel" {
            h2 { "Which gate does the work" }
            p.note { "Each record is judged as it arrives, by the configured settings; it counts at every gate up to the last that it passes. Bars are logarithmic." }
            div.scroll {
                table {
                    thead { tr { th.gate { "gate" } th.n { "records" } th.n { "of those before" } th { } th { "passes what" } } }
                    tbody {
                        @for (gate, before) in report.funnel.iter().zip(before) {
                            tr {
                                td { b { (gate.gate) } }
                                td.n { (number(gate.records)) }
                                td.n { @if let Some(before) = before.filter(|n| *n > 0) { (share(gate.records, before)) } }
                                td.bar { meter min="0" max="1" value=(format!("{:.3}", (1.0 + gate.records as f64).ln() / (1.0 + most).ln())) {} }
                                td { (gate.passes) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn share(n: u64, of: u64) -> String {
    let percent = 100.0 * n as f64 / of as f64;
    if percent >= 1.0 || n == 0 { format!("{percent:.0} %") } else { format!("{percent:.2} %") }
}

/// Each day, the latest first.
pub(super) fn days(report: &Report) -> Markup {
    let suppressing = report.is_suppressing();
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th { "day" } th.n { "opened" } @if suppressing { th.n { "not hidden" } } th.n { "retracted" } th.n { "closed" } th { }
                    }
                }
                tbody {
                    @for day in report.days.iter().rev() {
                        tr {
                            td { (day.day) } td.n { (number(day.all.opened)) } @if suppressing { td.n { (number(day.shown.opened)) } }
                            td.n { (number(day.all.retracted)) } td.n { (number(day.all.closed)) } td { @if day.warm_up { "warm-up" } }
                        }
                    }
                }
            }
        }
    }
}

/// The grid: a table for each lookback.
pub(super) fn what_if(report: &Report) -> Markup {
    let grid = &report.what_if;
    let cell_of = |lookback: &str, vendors: u32, prevalence: u32| {
        let is =
            |cell: &&WhatIfCell| cell.lookback == lookback && cell.vendor_servers_below == vendors && cell.prevalence_below == prevalence;
        grid.cells.iter().find(is)
    };
    let suppressing = report.is_suppressing();
    html! {
        @if suppressing { p.note { "Below: with suppression rules on / off." } }
        div.columns.pairs[suppressing] {
            @for lookback in &grid.lookback {
                div.scroll {
                    h3 { "lookback " (lookback) }
                    table.grid {
                        thead { tr { th { "prevalence" } @for p in &grid.prevalence_below { th.n { "< " (p) } } } }
                        tbody {
                            @for v in &grid.vendor_servers_below {
                                tr {
                                    td.w { "< " (v) " servers" }
                                    @for p in &grid.prevalence_below {
                                        @if let Some(cell) = cell_of(lookback, *v, *p) {
                                            td.n.configured[cell.configured] {
                                                (mean(cell.shown_a_day)) @if suppressing { " / " (mean(cell.opened_a_day)) }
                                            }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Where findings were opened most.
pub(super) fn top(report: &Report) -> Markup {
    let suppressing = report.is_suppressing();
    let table = |what: &str, rows: &[TopRow]| {
        html! {
            div {
                h3 { (what) }
                @if rows.is_empty() { p.note { "None." } } @else {
                    table.top {
                        thead { tr { th { } th.n { "opened" } @if suppressing { th.n { "shown" } } th.n { "retracted" } } }
                        tbody {
                            @for row in rows {
                                tr {
                                    td { (or_unknown(&row.name)) } td.n { (number(row.opened)) } @if suppressing { td.n { (number(row.shown)) } }
                                    td.n { (number(row.retracted)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    };
    html! {
        section id="top" {
            h2 { "Where findings were opened most" }
            div.columns {
                (table("Devices", &report.top.devices))
                (table("Destinations", &report.top.destinations))
                (table("Companies of the connecting software", &report.top.companies))
            }
        }
    }
}

/// Servers by hour of the day.
pub(super) fn heat_map(report: &Report) -> Markup {
    let most = report.heat_map.iter().flat_map(|row| row.hours).max().unwrap_or(0).max(1);
    let class = |n: u64| {
        if n == 0 { "" } else { ["h1", "h2", "h3", "h4", "h5"].get((n * 5 - 1) as usize / most as usize).copied().unwrap_or("h5") }
    };
    html! {
        section id="hours" {
            h2 { "Server by hour of the day" }
            p.note { "Findings opened, by the hour (UTC) in which they were. The servers with most; suppressed findings count." }
            @if report.heat_map.is_empty() { p.note { "None." } } @else {
                div.scroll {
                    table.heat {
                        thead { tr { th { } @for hour in 0..24 { th { (format!("{hour:02}")) } } } }
                        tbody {
                            @for row in &report.heat_map {
                                tr {
                                    td.name { (or_unknown(&row.device)) }
                                    @for n in row.hours { td class=(class(n)) { @if n > 0 { (n) } } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What the answer depends on.
pub(super) fn settings(report: &Report) -> Markup {
    html! {
        section id="settings" {
            h2 { "Settings and input" }
            div.columns {
                table { tbody { @for (key, value) in &report.settings { tr { td { code { (key) } } td.n { (value) } } } } }
                table {
                    tbody {
                        @for (what, n) in [
                            ("messages or lines", report.input.messages),
                            ("records", report.input.records),
                            ("network events", report.input.network),
                            ("inventory rows", report.input.inventory),
                            ("of other tables", report.input.other_tables),
                            ("repeats", report.input.repeats),
                            ("could not be read", report.input.dead_letters),
                        ] { tr { td { (what) } td.n { (number(n)) } } }
                        @for (rule, changes) in &report.findings.suppressed {
                            tr { td { "changes that rule " (or_unknown(rule)) " hides" } td.n { (number(*changes)) } }
                        }
                    }
                }
            }
        }
    }
}
