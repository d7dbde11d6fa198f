//! The software of the synthetic fleet: who makes it, where it lies, how it is started.
//!
//! Well-known makers run on most machines; the niche ones, whose names are invented, are made up by number and installed on
//! one to nine servers each. Which machine runs what is decided in `world`.

use super::random::mix;

/// One program as Defender sees it start connections. An empty account means the device's own user.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) company: String,
    pub(crate) product: String,
    pub(crate) file_name: String,
    pub(crate) folder_path: String,
    pub(crate) command_line: String,
    pub(crate) sha256: String,
    pub(crate) account_name: &'static str,
    pub(crate) account_domain: &'static str,
}

/// A row: company, product, full path, arguments, account (`@` is the device's user).
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

const WINDOWS: &str = "Microsoft® Windows® Operating System";
const MICROSOFT: &str = "Microsoft Corporation";

/// Programs of Windows servers, the commonest first.
pub(crate) const SERVER: &[Row] = &[
    (MICROSOFT, WINDOWS, r"C:\Windows\System32\svchost.exe", r"-k netsvcs -p -s wuauserv", "system"),
    (MICROSOFT, WINDOWS, r"C:\ProgramData\Microsoft\Windows Defender\Platform\4.18.24090.11-0\MsMpEng.exe", "", "system"),
    (MICROSOFT, WINDOWS, r"C:\Program Files\Windows Defender Advanced Threat Protection\MsSense.exe", "", "system"),
    (MICROSOFT, WINDOWS, r"C:\Windows\System32\svchost.exe", r"-k NetworkService -p -s CryptSvc", "network service"),
    (
        MICROSOFT,
        WINDOWS,
        r"C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe",
        r#"-NoProfile -File "D:\ops\Collect Inventory.ps1" -Target "all""#,
        "svc-ops",
    ),
    (
        MICROSOFT,
        "Microsoft SQL Server",
        r"C:\Program Files\Microsoft SQL Server\MSSQL16.MSSQLSERVER\MSSQL\Binn\sqlservr.exe",
        "-sMSSQLSERVER",
        "svc-sql",
    ),
    (
        MICROSOFT,
        "Internet Information Services",
        r"C:\Windows\System32\inetsrv\w3wp.exe",
        r#"-ap "DefaultAppPool" -v "v4.0" -l "webengine4.dll" -a \\.\pipe\iisipm1"#,
        "iis-pool",
    ),
    ("VMware, Inc.", "VMware Tools", r"C:\Program Files\VMware\VMware Tools\vmtoolsd.exe", "-n vmusr", "system"),
    ("Google LLC", "Google Chrome", r"C:\Program Files (x86)\Google\Update\GoogleUpdate.exe", "/ua /installsource scheduler", "system"),
    ("Splunk Inc.", "Splunk Universal Forwarder", r"C:\Program Files\SplunkUniversalForwarder\bin\splunkd.exe", "service", "system"),
];

/// Programs of Windows workstations.
pub(crate) const WORKSTATION: &[Row] = &[
    (
        MICROSOFT,
        "Microsoft Edge",
        r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
        r#"--type=utility --utility-sub-type=network.mojom.NetworkService --lang=en-US --field-trial-handle="2048,i,1""#,
        "@",
    ),
    (MICROSOFT, "Microsoft Teams", r"C:\Program Files\WindowsApps\MSTeams_24295.605.3225.8804_x64__8wekyb3d8bbwe\ms-teams.exe", "", "@"),
    (MICROSOFT, WINDOWS, r"C:\Windows\System32\svchost.exe", "-k netsvcs -p -s wuauserv", "system"),
    (
        "Google LLC",
        "Google Chrome",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
        r#"--type=utility --utility-sub-type=network.mojom.NetworkService --lang=de --service-sandbox-type=none"#,
        "@",
    ),
    (MICROSOFT, "Microsoft Office", r"C:\Program Files\Microsoft Office\root\Office16\OUTLOOK.EXE", "", "@"),
    (MICROSOFT, "Microsoft OneDrive", r"C:\Program Files\Microsoft OneDrive\OneDrive.exe", "/background", "@"),
    (
        "Mozilla Corporation",
        "Firefox",
        r"C:\Program Files\Mozilla Firefox\firefox.exe",
        r#"-contentproc --channel="3440.1.1337" -parentBuildID 20260301"#,
        "@",
    ),
    (
        "Zoom Video Communications, Inc.",
        "Zoom Workplace",
        r"C:\Program Files\Zoom\bin\Zoom.exe",
        r#""--url=zoommtg://zoom.example/join?confno=1""#,
        "@",
    ),
    ("Adobe Inc.", "Adobe Acrobat", r"C:\Program Files\Adobe\Acrobat DC\Acrobat\AcroCEF\AcroCEF.exe", "--type=renderer", "@"),
    ("Slack Technologies, LLC", "Slack", r"C:\Program Files\Slack\slack.exe", "--type=utility", "@"),
];

/// Programs of Macs: the company column holds a signing team.
pub(crate) const MAC: &[Row] = &[
    ("", "", "/Applications/Safari.app/Contents/MacOS/Safari", "", "@"),
    (
        "UBF8T346G9",
        "",
        "/Library/Application Support/Microsoft/MAU2.0/Microsoft AutoUpdate.app/Contents/MacOS/Microsoft Update Assistant",
        "--launchByAgent",
        "@",
    ),
    ("EQHXZ8M8AV", "", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "", "@"),
];

/// Programs of Linux servers and appliances: no version information, so no company.
pub(crate) const LINUX: &[Row] = &[
    ("", "", "/usr/bin/curl", "-sSf https://packages.example/status", "root"),
    ("", "", "/usr/lib/apt/methods/https", "", "_apt"),
    ("", "", "/usr/sbin/chronyd", "-F 1", "_chrony"),
    ("", "", "/opt/app/bin/java", r#"-Xmx4g -Dname="billing" -jar /opt/app/lib/billing.jar"#, "app"),
];

const MAKERS: &[&str] = &[
    "Orvanta",
    "Halvorsen",
    "Tarnwood",
    "Kestrelis",
    "Brixmoor",
    "Lumenfold",
    "Varnholt",
    "Quillon",
    "Sablecrest",
    "Nordquell",
    "Pellworth",
    "Ostrava",
    "Fernhill",
    "Cobaltine",
    "Meridax",
    "Thornbury",
    "Ardenholm",
    "Wexley",
    "Zephiron",
    "Glimmerworks",
];
const TRADES: &[(&str, &str, &str)] = &[
    ("Networks", "Network Monitor", "BusinessLayerHost"),
    ("Backup", "Backup Agent", "BackupService"),
    ("Telemetry", "Telemetry Collector", "CollectorSvc"),
    ("Print", "Print Gateway", "PrintGateway"),
    ("Licensing", "License Server", "LicenseD"),
    ("Archive", "Archive Connector", "ArchiveHost"),
];
const FORMS: &[&str] = &["Ltd", "GmbH", "Inc.", "S.r.l.", "AB", "LLC", "Oy"];

impl Process {
    pub(crate) fn of(row: &Row) -> Process {
        let (company, product, path, arguments, account) = *row;
        let file_name = path.rsplit(['\\', '/']).next().unwrap_or(path);
        let quoted = if path.contains(' ') { format!("\"{path}\"") } else { path.to_owned() };
        let command_line = if arguments.is_empty() { quoted } else { format!("{quoted} {arguments}") };
        let (account_name, account_domain) = match account {
            "@" => ("", ""),
            "system" | "network service" => (account, "nt authority"),
            other => (other, "corp"),
        };
        Process {
            company: company.into(),
            product: product.into(),
            file_name: file_name.to_lowercase(),
            folder_path: path.to_lowercase(),
            command_line,
            sha256: digest(path),
            account_name,
            account_domain,
        }
    }

    /// The service of niche vendor `number`; 0 is the one whose update the attack rides on.
    pub(crate) fn niche(number: u32) -> Process {
        let pick = |len: usize, salt: u64| usize::try_from(mix(u64::from(number), salt)).unwrap_or(0) % len;
        let (n, makers) = (number as usize, MAKERS.len());
        // Number 0 … makers − 1 take the plain names; later ones are told apart by a numeral.
        let maker = MAKERS.get(n % makers).copied().unwrap_or("Orvanta");
        let name = if n < makers { maker.to_owned() } else { format!("{maker} {}", n / makers + 1) };
        let trade = TRADES.get(if number == 0 { 0 } else { pick(TRADES.len(), 11) }).copied().unwrap_or(("Systems", "Agent", "AgentSvc"));
        let form = FORMS.get(pick(FORMS.len(), 12)).copied().unwrap_or("Ltd");
        let folder = name.replace(' ', "");
        let path = format!(r"C:\Program Files (x86)\{folder}\{}\{folder}.{}.exe", trade.1, trade.2);
        Process {
            company: format!("{name} {} {form}", trade.0),
            product: format!("{name} {}", trade.1),
            file_name: format!("{folder}.{}.exe", trade.2).to_lowercase(),
            folder_path: path.to_lowercase(),
            command_line: format!("\"{path}\" --service --config \"C:\\ProgramData\\{folder}\\agent.json\""),
            sha256: digest(&path),
            account_name: "system",
            account_domain: "nt authority",
        }
    }
}

/// A stable 64-digit hexadecimal text that stands for the file's SHA-256.
fn digest(path: &str) -> String {
    let seed = path.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| mix(h, u64::from(b)));
    (0..4).map(|i| format!("{:016x}", mix(seed, i))).collect()
}

/// A pronounceable label of host names.
pub(crate) fn word(number: u64) -> &'static str {
    const WORDS: &[&str] = &[
        "amber", "birch", "cedar", "delta", "ember", "falcon", "garnet", "harbor", "indigo", "juniper", "kite", "lagoon", "maple",
        "nimbus", "opal", "prairie", "quartz", "raven", "sierra", "tundra", "umber", "violet", "willow", "yonder", "zenith",
    ];
    WORDS.get(usize::try_from(number % 25).unwrap_or(0)).copied().unwrap_or("amber")
}

/// Host names that everybody talks to, the most popular first.
pub(crate) const COMMON_HOSTS: &[&str] = &[
    "login.microsoftonline.com",
    "settings-win.data.microsoft.com",
    "ctldl.windowsupdate.com",
    "fe3cr.delivery.mp.microsoft.com",
    "outlook.office365.com",
    "teams.microsoft.com",
    "v10.events.data.microsoft.com",
    "winatp-gw-weu.microsoft.com",
    "www.google.com",
    "clients2.google.com",
    "ocsp.digicert.com",
    "crl3.digicert.com",
    "graph.microsoft.com",
    "edge.microsoft.com",
    "config.teams.microsoft.com",
    "go.microsoft.com",
    "slack.com",
    "zoom.us",
    "updates.splunk.com",
    "packages.vmware.com",
];
