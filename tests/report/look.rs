//! The page in a real browser: nothing fetched, nothing run, nothing on the console; both colour schemes; hostile input is text.
//!
//! Chromium has to be there (`scripts/chromium.sh` gets it): a page that nobody opened proves nothing. The pictures are left in
//! `target/tmp/report` for people.

use super::kit::{fleet, succeed, text};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Opens the page; what happened, and where the pictures are.
fn look(page: &Path, name: &str) -> (Value, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = root.join("scripts/chromium.sh");
    let output = Command::new("sh").arg(&script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "no Chromium: {} failed; its message stands above. It needs Node 20 and npm", script.display());
    let tools = String::from_utf8(output.stdout).unwrap();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report").join(name);
    let command = ["tests/report/look.mjs", tools.trim(), text(page), text(&out)];
    let output = Command::new("node").args(command).current_dir(root).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "node {command:?} failed; its message stands above. CHROMIUM names an installed browser");
    (serde_json::from_slice(&output.stdout).unwrap(), out)
}

/// Nothing happened but that it was shown.
fn is_quiet(said: &Value) {
    for what in ["console", "errors", "dialogs", "requests"] {
        assert_eq!(said[what], json!([]), "{what}: {said}");
    }
    for scheme in ["light", "dark"] {
        let of = &said["schemes"][scheme];
        assert_eq!((&of["scripts"], &of["frames"], &of["handlers"]), (&json!(0), &json!(0), &json!(0)), "{said}");
        assert_eq!((&of["wide"], &of["hacked"]), (&json!(false), &json!("undefined")), "{said}");
    }
}

#[test]
fn the_page_is_shown_in_both_schemes_and_printed_without_a_word_on_the_console() {
    let (dir, input) = fleet(300, 20);
    let page = dir.path().join("r.html");
    succeed(&["backtest", text(&input), "--report", text(&page)]);
    let (said, out) = look(&page, "fleet");
    is_quiet(&said);
    let (light, dark) = (&said["schemes"]["light"], &said["schemes"]["dark"]);
    for colour in ["ground", "ink", "opened"] {
        assert_ne!(light[colour], dark[colour], "{colour} is the same in both schemes: {said}");
    }
    assert_eq!((&light["charts"], &dark["charts"]), (&json!(5), &json!(5)), "{said}");
    assert!(light["findings"].as_u64().unwrap() > 50, "{said}");
    for file in ["light.png", "dark.png", "light-full.png", "dark-full.png", "print.pdf"] {
        assert!(fs::metadata(out.join(file)).unwrap().len() > 20_000, "{file} is empty");
    }
    assert_ne!(fs::read(out.join("light.png")).unwrap(), fs::read(out.join("dark.png")).unwrap());
}

const HOSTILE: &str = "</style></title><script>hacked=1;alert(1)</script><img src=x onerror=hacked=1>\"'&\u{202e}txt\u{7}\u{1b}[2J";

/// A server whose every text is an attack talks to a rare destination.
fn hostile_input(file: &Path) {
    let network = "AdvancedHunting-DeviceNetworkEvents";
    let line = |category: &str, properties: Value| {
        let time = "2026-03-01T10:00:00Z";
        json!({"time": time, "tenantId": HOSTILE, "category": category, "properties": properties}).to_string()
    };
    let lines = [
        line(
            "AdvancedHunting-DeviceInfo",
            json!({"Timestamp": "2026-03-01T09:00:00Z", "DeviceId": HOSTILE, "DeviceName": HOSTILE, "OSPlatform": HOSTILE, "DeviceType": HOSTILE}),
        ),
        line(
            network,
            json!({
                "Timestamp": "2026-03-01T09:30:00Z", "DeviceId": HOSTILE, "DeviceName": HOSTILE, "ActionType": "ConnectionSuccess", "ReportId": 7,
                "RemoteIP": HOSTILE, "RemoteIPType": "Public", "RemotePort": 443, "RemoteUrl": HOSTILE,
                "InitiatingProcessFileName": HOSTILE, "InitiatingProcessFolderPath": HOSTILE, "InitiatingProcessCommandLine": HOSTILE,
                "InitiatingProcessSHA256": HOSTILE, "InitiatingProcessAccountName": HOSTILE, "InitiatingProcessAccountDomain": HOSTILE,
                "InitiatingProcessVersionInfoCompanyName": HOSTILE, "InitiatingProcessVersionInfoProductName": HOSTILE
            }),
        ),
    ];
    fs::write(file, lines.join("\n") + "\n").unwrap();
}

#[test]
fn hostile_text_is_shown_as_text() {
    let dir = tempfile::tempdir().unwrap();
    let (input, page) = (dir.path().join("in.ndjson"), dir.path().join("r.html"));
    hostile_input(&input);
    succeed(&["backtest", text(&input), "--report", text(&page)]);
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.matches("&lt;script&gt;").count() > 10, "the attack is not on the page: {} bytes", html.len());
    assert!(html.contains(r"\u{202e}txt\u{7}\u{1b}[2J"), "what hides is not written out");
    for forbidden in ["<script", "<img", "\u{202e}", "\u{7}", "\u{1b}"] {
        assert!(!html.contains(forbidden), "{forbidden:?} is on the page");
    }
    let (said, _) = look(&page, "hostile");
    is_quiet(&said);
    assert_eq!(said["schemes"]["light"]["findings"], json!(1), "{said}");
}
