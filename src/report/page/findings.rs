//! The findings one by one: a sentence each, and its details behind it.

use super::minute;
use super::text::{Foreign, number, or_unknown};
use crate::report::{Finding, Report};
use maud::{Markup, html};

pub(super) fn list(report: &Report) -> Markup {
    let (listed, of) = (report.details.findings.len() as u64, report.details.of);
    html! {
        section.long id="findings" {
            h2 { "Findings" }
            p.note {
                @if listed == of { (number(of)) " in all, the most severe and newest first." }
                @else {
                    b { (number(listed)) " of " (number(of)) } " are listed: the most severe, those that no rule hides before others, the newest "
                    "first. " code { "--report-findings" } " lists more; " code { "--changes" } " writes all."
                }
            }
            @for finding in &report.details.findings { (one(finding)) }
        }
    }
}

fn one(finding: &Finding) -> Markup {
    html! {
        details {
            summary {
                span class={ "pill " (finding.severity) } { (finding.severity) }
                span.pill.quiet { (finding.state) }
                @if finding.late { span.pill.quiet { "late" } }
                @if let Some(rule) = &finding.suppressed_by { span.pill.quiet { "hidden by " (Foreign(rule)) } }
                span.note { (minute(finding.opened)) " " }
                (Foreign(&finding.reason))
            }
            dl {
                @if let Some(outcome) = &finding.outcome { dt { "then" } dd { (Foreign(outcome)) } }
                @if let Some(ended) = finding.ended { dt { (finding.state) } dd { (minute(ended)) } }
                dt { "device" } dd { (or_unknown(&finding.device)) ", " (or_unknown(&finding.os_platform)) ", " (or_unknown(&finding.device_type)) }
                dt { "destination" } dd {
                    code { (or_unknown(&finding.remote_ip)) @if let Some(port) = finding.remote_port { ", port " (port) } }
                    @for url in &finding.urls { br; (Foreign(url)) }
                    @if finding.more_urls > 0 { br; "and " (number(finding.more_urls as u64)) " more URLs" }
                }
                dt { "seen" } dd {
                    (number(finding.count)) @if finding.count == 1 { " connection, " } @else { " connections, " }
                    (minute(finding.first_seen)) " to " (minute(finding.last_seen))
                }
                dt { "prevalence" } dd { (number(finding.prevalence)) @if finding.prevalence == 1 { " device" } @else { " devices" } }
                dt { "rare software" } dd {
                    @for (n, (company, servers)) in finding.vendors.iter().enumerate() {
                        @if n > 0 { ", " } (or_unknown(company)) " (" (number(*servers)) @if *servers == 1 { " server)" } @else { " servers)" }
                    }
                }
                dt { "process" } dd {
                    (or_unknown(&finding.process.file_name)) " of " (or_unknown(&finding.process.company))
                    @if !finding.process.product.is_empty() { ", " (Foreign(&finding.process.product)) }
                    @if !finding.process.account.is_empty() { ", as " (Foreign(&finding.process.account)) }
                    @for line in [&finding.process.folder_path, &finding.process.command_line, &finding.process.sha256] {
                        @if !line.is_empty() { br; code { (Foreign(line)) } }
                    }
                }
                dt { "finding" } dd { code { (finding.finding_id) } ", " (finding.revision) @if finding.revision == 1 { " change" } @else { " changes" } }
            }
        }
    }
}
