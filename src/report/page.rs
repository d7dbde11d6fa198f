//! The report as one page of HTML: static, without script and without anything to fetch, and a policy in it that says so to browsers.
//!
//! Texts from the input are hostile until shown otherwise ([`text`]). The page is as long as its lists, and these are bounded.

mod charts;
mod findings;
mod tables;
mod text;

use super::{Report, TenantRange};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::io;
use text::{Foreign, duration, mean, number};

const STYLE: &str = include_str!("page/style.css");
/// Nothing is fetched and nothing runs, whatever might get past the escaping.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The page.
///
/// # Errors
/// When a chart can't be drawn.
pub fn html(report: &Report) -> io::Result<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "firstseen report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (head(report))
                    (tiles(report))
                    (tables::funnel(report))
                    (days(report)?)
                    (what_if(report)?)
                    (retractions(report)?)
                    (tables::top(report))
                    (tables::heat_map(report))
                    (findings::list(report))
                    (tables::settings(report))
                    footer { "firstseen " (report.version) ", " (minute(report.generated)) ". All times are UTC." }
                }
            }
        }
    };
    Ok(page.into_string())
}

fn minute(at: crate::time::Ticks) -> String {
    let text = at.to_string();
    format!("{} {}", text.get(..10).unwrap_or(&text), text.get(11..16).unwrap_or(""))
}

fn head(report: &Report) -> Markup {
    let tenants = &report.input.tenants;
    let young: Vec<&TenantRange> = tenants.iter().filter(|t| t.warm_until > t.to).collect();
    html! {
        header {
            h1 { b { "firstseen" } " report" }
            p.lead {
                "What would have been found in " (number(report.input.records)) " records"
                @for tenant in tenants.iter().take(5) {
                    "; " @if tenants.len() > 1 || !tenant.tenant.is_empty() { "tenant " (Foreign(&tenant.tenant)) ", " }
                    (minute(tenant.from)) " to " (minute(tenant.to))
                }
                @if tenants.len() > 5 { "; and " (tenants.len() - 5) " more tenants" }
                "."
            }
            nav {
                a href="#funnel" { "Funnel" } a href="#days" { "Days" } a href="#what-if" { "What if" } a href="#retractions" { "Retractions" }
                a href="#top" { "Top" } a href="#hours" { "Hours" } a href="#findings" { "Findings" } a href="#settings" { "Settings" }
            }
            @if !young.is_empty() {
                p.banner {
                    "The whole range is warm-up" @if tenants.len() > 1 { " for " (young.len()) " of " (tenants.len()) " tenants" }
                    ": it is shorter than the lookback, so \u{201c}never seen\u{201d} may only mean \u{201c}not watched before\u{201d}. Expect far "
                    "more findings here than in operation."
                }
            }
        }
    }
}

fn tiles(report: &Report) -> Markup {
    let (findings, times) = (&report.findings, &report.time_to_retraction);
    let hidden = findings.all.opened - findings.shown.opened;
    let share = 100.0 * findings.all.retracted as f64 / findings.all.opened.max(1) as f64;
    let settled = report.days.iter().any(|day| !day.warm_up);
    let tile = |value: String, what: &str| html! { div.tile { b { (value) } span { (what) } } };
    html! {
        div.tiles {
            (tile(mean(findings.opened_a_day), if settled { "findings a day after warm-up" } else { "findings a day, in warm-up" }))
            (tile(number(findings.all.opened), "findings opened in all"))
            (tile(format!("{share:.0} %"), "of them retracted"))
            (tile(times.median_seconds.map_or_else(|| "\u{2013}".to_owned(), duration), "median time to retraction"))
            (tile(number(findings.open_at_end), "open at the end"))
            @if report.is_suppressing() { (tile(number(hidden), "openings that suppression rules hide")) }
            @if report.input.dead_letters > 0 { (tile(number(report.input.dead_letters), "records could not be read")) }
        }
    }
}

fn days(report: &Report) -> io::Result<Markup> {
    let (top, cut) = charts::days_top(&report.days);
    let most = report.days.iter().map(|day| day.all.opened).max().unwrap_or(0);
    Ok(html! {
        section id="days" {
            h2 { "Findings a day" }
            div.key {
                span { i.opened {} "opened" } @if report.is_suppressing() { span { i.hidden {} "opened, hidden by a rule" } }
                span { i.retracted {} "retracted" } span { i.closed {} "closed: the first day is over" } span { i.warm {} "warm-up" }
            }
            figure role="img" aria-label="Findings opened, retracted and closed on each day" { (PreEscaped(charts::days(report)?)) }
            @if cut {
                p.note { "Bars of warm-up days are cut off at " (number(top as u64)) "; the tallest would be " (number(most)) "." }
            }
            details { summary { "As a table" } (tables::days(report)) }
        }
    })
}

fn what_if(report: &Report) -> io::Result<Markup> {
    let grid = &report.what_if;
    let top = charts::common_top(grid.cells.iter().map(|cell| cell.opened_a_day));
    let panels = grid.lookback.iter().map(|lookback| {
        let cells: Vec<_> = grid.cells.iter().filter(|cell| cell.lookback == *lookback).collect();
        let shown = charts::what_if(&cells, |cell| cell.shown_a_day, top)?;
        let days = cells.first().map_or((0, false), |cell| (cell.days_counted, cell.warm_up));
        Ok((lookback, shown, days))
    });
    let panels = panels.collect::<io::Result<Vec<_>>>()?;
    Ok(html! {
        section.long id="what-if" {
            h2 { "What if" }
            p.note {
                "Findings opened a day by other settings, each as a backtest of its own would say"
                @if report.is_suppressing() { "; suppression rules on" } ". The configured settings are marked. Means are over the days after the warm-up "
                "of each lookback."
            }
            div.key {
                "vendor_servers_below"
                @for (n, vendors) in grid.vendor_servers_below.iter().enumerate() {
                    span { i class={ "line" (n % charts::LINES.len()) } {} (vendors) }
                }
            }
            div.columns {
                @for (lookback, chart, (days, young)) in &panels {
                    figure role="img" aria-label={ "Findings a day by thresholds, lookback " (lookback) } {
                        figcaption {
                            "lookback " b { (lookback) } ", " (days) @if *days == 1 { " day" } @else { " days" } @if *young { " of warm-up: too short a range" }
                        }
                        (PreEscaped(chart))
                    }
                }
            }
            (tables::what_if(report))
        }
    })
}

fn retractions(report: &Report) -> io::Result<Markup> {
    let times = &report.time_to_retraction;
    Ok(html! {
        section id="retractions" {
            h2 { "Time to retraction" }
            p.note {
                "From an opening to its retraction: how long a finding stood that turned out to be common, late or no server's. "
                @match times.median_seconds {
                    Some(median) => { "Half of them stood " (duration(median)) " or less." }
                    None => { "None was retracted." }
                }
            }
            figure role="img" aria-label="Retractions by time since the opening" style="max-width: 560px" { (PreEscaped(charts::retractions(report)?)) }
        }
    })
}
