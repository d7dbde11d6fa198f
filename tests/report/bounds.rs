//! A report stays one that can be looked at, however much was found.

use firstseen::detector::Settings;
use firstseen::finding::severity::Privileged;
use firstseen::finding::{Change, ChangeKind, FindingId, OpeningEvent};
use firstseen::report::collect::Collector;
use firstseen::report::{Input, TenantRange, page};
use firstseen::time::{Span, Ticks};
use firstseen::whatif::Grid;
use firstseen::whatif::axes::{Axes, Wish};

fn start() -> Ticks {
    Ticks::parse("2026-03-01T00:00:00Z").unwrap()
}

fn opened(n: u64, id: u64) -> Change {
    let at = start().plus(Span::minutes(n as i64));
    let mut name = [0; 16];
    name[..8].copy_from_slice(&id.to_be_bytes());
    Change {
        id: FindingId(name),
        revision: 1,
        kind: ChangeKind::Opened,
        at,
        tenant: "t".into(),
        device_name: format!("srv-{}", n % 5000),
        device_id: String::new(),
        os_platform: String::new(),
        device_type: String::new(),
        remote_ip: format!("203.0.{}.{}", n / 256 % 256, n % 256),
        remote_port: Some(443),
        urls: (0..200).map(|u| format!("{}-{u}.example", "long".repeat(10))).collect(),
        urls_truncated: false,
        first_seen: at,
        last_seen: at,
        count: 1,
        prevalence: 1,
        vendors: vec![("Acme".into(), 1)],
        previous_seen: None,
        observed_since: start(),
        device_since: start(),
        gap: None,
        evicted: None,
        partial: None,
        late: false,
        suppressed_by: None,
        cause: "",
        event: OpeningEvent { command_line: "x".repeat(4096), company: format!("Company {}", n % 300), ..OpeningEvent::default() },
    }
}

#[test]
fn a_report_over_a_hundred_thousand_findings_stays_a_page_and_says_what_it_leaves_out() {
    let settings = Settings::default();
    let mut collector = Collector::new(settings.clone(), Privileged::none(), 500);
    for n in 0..100_000 {
        collector.take(&opened(n, n));
    }
    let to = start().plus(Span::minutes(100_000));
    let tenants = vec![TenantRange { tenant: "t".into(), from: start(), to, warm_until: start().plus(Span::days(13)) }];
    let axes = Axes::new(&Wish::default(), &settings).unwrap();
    let report = collector.report(Input { records: 1 << 40, tenants, ..Input::default() }, &axes, &Grid::default(), to);
    let page = page::html(&report).unwrap();
    let (mut json, listed) = (Vec::new(), report.details.findings.len());
    report.write_json(&mut json).unwrap();
    println!("page {} bytes, JSON {} bytes", page.len(), json.len());
    assert!(page.len() < 3_000_000 && json.len() < 3_000_000, "{} {}", page.len(), json.len());
    assert_eq!((listed, report.details.of, report.findings.all.opened), (500, 100_000, 100_000));
    assert!(page.contains("500 of 100\u{202f}000"));
    // Those after the warm-up weigh more, and of them the newest are listed, newest first.
    let newest = |n: usize| report.details.findings.get(n).map(|f| f.opened);
    assert_eq!((newest(0), newest(499)), (Some(start().plus(Span::minutes(99_999))), Some(start().plus(Span::minutes(99_500)))));
    assert!(report.top.devices.len() <= 15 && report.heat_map.len() <= 30 && report.days.len() == 70);
}

#[test]
fn an_input_that_spans_a_century_lists_its_last_days() {
    let settings = Settings::default();
    let collector = Collector::new(settings.clone(), Privileged::none(), 5);
    let from = Ticks::parse("1926-03-01T00:00:00Z").unwrap();
    let tenants = vec![TenantRange { tenant: String::new(), from, to: start(), warm_until: from }];
    let axes = Axes::new(&Wish::default(), &settings).unwrap();
    let report = collector.report(Input { tenants, ..Input::default() }, &axes, &Grid::default(), start());
    assert_eq!(report.days.len(), 400);
    assert!(page::html(&report).unwrap().len() < 500_000);
}
