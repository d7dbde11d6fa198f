//! The report's numbers against those of the changes files of separate backtests, one a cell.

use super::kit::{fleet, json, run, succeed, text};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// By day and kind, updates left out: all, and those that no rule matched.
type Counts = BTreeMap<(String, String), (u64, u64)>;

const RULES: &str = r#"
[[suppress]]
name = "a-domain"
domain_suffix = ["willow.example", "quartz.example", "telemetry-sync.example"]
port = [443]
cel = 'size(finding.vendors) > 1 || finding.prevalence.threshold == 6'
reason = "reads what differs from cell to cell"
owner = "tests"

[[suppress]]
name = "low-and-common"
cel = 'finding.severity == "low" && finding.prevalence.devices > 1'
reason = "severity goes by the lookback"
owner = "tests"
"#;

fn configuration(path: &Path, prevalence: u32, vendors: u32, lookback: &str) {
    let query = format!("[query]\nprevalence_below = {prevalence}\nvendor_servers_below = {vendors}\nlookback = {lookback:?}\n");
    fs::write(path, query + RULES).unwrap();
}

fn changes(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn counted(changes: &[Value]) -> Counts {
    let mut counts = Counts::new();
    for change in changes.iter().filter(|change| change["change"] != "updated") {
        let key = (change["at"].as_str().unwrap()[..10].to_owned(), change["change"].as_str().unwrap().to_owned());
        let (all, shown) = counts.entry(key).or_default();
        *all += 1;
        *shown += u64::from(change.get("suppressed_by").is_none());
    }
    counts
}

fn reported(days: &Value) -> Counts {
    let mut counts = Counts::new();
    for day in days.as_array().unwrap() {
        for kind in ["opened", "retracted", "closed"] {
            let number = |which: &str| day[which][kind].as_u64().unwrap();
            if number("all") > 0 {
                counts.insert((day["day"].as_str().unwrap().to_owned(), kind.to_owned()), (number("all"), number("shown")));
            }
        }
    }
    counts
}

#[test]
fn each_cell_counts_what_a_separate_backtest_counts() {
    let (dir, input) = fleet(250, 17);
    let at = |name: &str| dir.path().join(name);
    let (config, all, report) = (at("c.toml"), at("all.ndjson"), at("r.json"));
    configuration(&config, 6, 10, "14d");
    let grid = ["--what-if-prevalence", "2,12", "--what-if-vendor-servers", "3", "--what-if-lookback", "5d,7d"];
    let run = ["backtest", text(&input), "--config", text(&config), "--changes", text(&all), "--report", text(&report)];
    succeed(&[&run[..], &grid].concat());
    let report = json(&report);
    let configured = changes(&all);

    let cells = report["what_if"]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 3 * 2 * 3, "configured values are in the grid as well");
    let mut seen = BTreeMap::new();
    for cell in cells {
        let number = |key: &str| u32::try_from(cell[key].as_u64().unwrap()).unwrap();
        let (prevalence, vendors, lookback) =
            (number("prevalence_below"), number("vendor_servers_below"), cell["lookback"].as_str().unwrap());
        let (config, own) = (at("cell.toml"), at("cell.ndjson"));
        configuration(&config, prevalence, vendors, lookback);
        succeed(&["backtest", text(&input), "--config", text(&config), "--changes", text(&own)]);
        let expected = counted(&changes(&own));
        assert_eq!(reported(&cell["days"]), expected, "prevalence_below {prevalence}, vendor_servers_below {vendors}, lookback {lookback}");
        let total =
            |kind: &str, of: fn((u64, u64)) -> u64| -> u64 { expected.iter().filter(|(k, _)| k.1 == kind).map(|(_, n)| of(*n)).sum() };
        for kind in ["opened", "retracted", "closed"] {
            assert_eq!(cell["all"][kind], total(kind, |n| n.0));
            assert_eq!(cell["shown"][kind], total(kind, |n| n.1));
        }
        assert_eq!(cell["configured"], (prevalence, vendors, lookback) == (6, 10, "14d"));
        seen.insert((total("opened", |n| n.0), total("opened", |n| n.1)), ());
    }
    assert!(seen.len() > 8, "the cells hardly differ: {seen:?}");

    // The report itself, of the configured settings.
    assert_eq!(reported(&report["days"]), counted(&configured));
    let opened = configured.iter().filter(|c| c["change"] == "opened").count() as u64;
    assert_eq!(report["findings"]["all"]["opened"], opened);
    let hidden: u64 = report["findings"]["suppressed"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(hidden, configured.iter().filter(|c| c.get("suppressed_by").is_some()).count() as u64);
    assert!(hidden > 0, "no rule matched anything");
    let heat = |row: &Value| row["hours"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>();
    for row in report["heat_map"].as_array().unwrap() {
        let of_device = configured.iter().filter(|c| c["change"] == "opened" && c["device"]["name"] == row["device"]).count();
        assert_eq!(heat(row), of_device as u64, "{row}");
    }
    for row in report["top"]["destinations"].as_array().unwrap() {
        let of = |kind: &str| configured.iter().filter(|c| c["change"] == kind && c["remote"]["ip"] == row["name"]).count() as u64;
        assert_eq!((row["opened"].as_u64(), row["retracted"].as_u64()), (Some(of("opened")), Some(of("retracted"))));
    }
    let times = report["time_to_retraction"]["buckets"].as_array().unwrap().iter().map(|b| b["findings"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(times, report["findings"]["all"]["retracted"].as_u64().unwrap());
    details(&report, &configured);
    funnel(&report);
}

/// Each finding with its last state and its sentence.
fn details(report: &Value, changes: &[Value]) {
    let listed = report["details"]["findings"].as_array().unwrap();
    assert_eq!(report["details"]["of"], changes.iter().filter(|c| c["revision"] == 1).count());
    for finding in listed {
        let own: Vec<&Value> = changes.iter().filter(|c| c["finding_id"] == finding["finding_id"]).collect();
        let (last, opened) = (own.last().unwrap(), own.iter().rfind(|c| c["change"] == "opened").unwrap());
        let state = match last["change"].as_str().unwrap() {
            "opened" | "updated" => "open",
            ended => ended,
        };
        assert_eq!((&finding["state"], &finding["reason"]), (&Value::from(state), &opened["reason"]));
        assert_eq!((&finding["count"], &finding["revision"], &finding["opened"]), (&last["count"], &last["revision"], &opened["at"]));
        assert_eq!(finding.get("suppressed_by"), last.get("suppressed_by"));
    }
}

fn funnel(report: &Value) {
    let gates: Vec<(&str, u64)> =
        report["funnel"].as_array().unwrap().iter().map(|g| (g["gate"].as_str().unwrap(), g["records"].as_u64().unwrap())).collect();
    let names: Vec<&str> = gates.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["records", "network events", "qualifying", "from third-party servers", "new", "rare", "findings"]);
    assert!(gates[..6].is_sorted_by(|a, b| a.1 >= b.1), "{gates:?}");
    assert_eq!((gates[0].1, gates[1].1), (report["input"]["records"].as_u64().unwrap(), report["input"]["network"].as_u64().unwrap()));
    assert!(gates[5].1 > 0 && gates[3].1 < gates[2].1 && gates[4].1 < gates[3].1, "{gates:?}");
}

#[test]
fn a_report_that_can_not_be_made_is_refused_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let html = dir.path().join("r.html");
    let refused = |arguments: &[&str], says: &[&str]| {
        let output = run(&[&["backtest", "no-such-input.ndjson"], arguments].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && says.iter().all(|s| error.contains(s)), "{arguments:?}: {:?} {error}", output.status);
    };
    let input = dir.path().join("empty.ndjson");
    fs::write(&input, "").unwrap();
    refused(&["--what-if-prevalence", "3"], &["--report"]);
    refused(&["--report", text(&html), "--what-if-prevalence", "0"], &["--what-if-prevalence"]);
    for (arguments, says) in [
        (["--report", "r.pdf", "--report-findings", "1"], [".html or .json", "r.pdf"]),
        (["--report", text(&html), "--what-if-lookback", "3d"], ["3d", "query.prevalence_window"]),
    ] {
        let output = run(&[&["backtest", text(&input)], &arguments[..]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && says.iter().all(|s| error.contains(s)), "{arguments:?}: {:?} {error}", output.status);
    }
    // An empty input has a report as well.
    succeed(&["backtest", text(&input), "--report", text(&html)]);
    assert!(fs::read_to_string(&html).unwrap().contains("None was retracted"));
}
