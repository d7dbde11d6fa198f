//! `backtest --report`: the what-if grid beside the run, and the files at its end.

use crate::cli;
use crate::commands::Usage;
use crate::defender::batch::Batch;
use crate::detector::Settings;
use crate::feed::Feed;
use crate::finding::severity::Privileged;
use crate::host_clock;
use crate::report::collect::Collector;
use crate::report::{Input, page};
use crate::suppress::Rules;
use crate::whatif::WhatIf;
use crate::whatif::axes::{Axes, Wish};
use anyhow::Context;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Page,
    Json,
}

/// What a report needs while the input is read. Files are made first: a path that can't be written is known before an hour of reading.
pub(super) struct Reporting {
    files: Vec<(Form, PathBuf, Box<dyn Write>)>,
    axes: Axes,
    what_if: WhatIf,
}

fn form(path: &Path) -> Result<Form, Usage> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "html" | "htm" => Ok(Form::Page),
        "json" => Ok(Form::Json),
        _ => Err(Usage(format!("--report {}: the name says the form; end it in .html or .json", path.display()))),
    }
}

impl Reporting {
    /// Nothing without `--report`.
    pub(super) fn start(
        args: &cli::Backtest,
        settings: &Settings,
        rules: &Rules,
        privileged: &Privileged,
    ) -> anyhow::Result<Option<(Reporting, Collector)>> {
        if args.report.is_empty() {
            return Ok(None);
        }
        let wish = Wish {
            prevalence_below: args.what_if_prevalence.clone(),
            vendor_servers_below: args.what_if_vendor_servers.clone(),
            lookback: args.what_if_lookback.clone(),
        };
        let axes = Axes::new(&wish, settings).map_err(|error| Usage(error.to_string()))?;
        let forms: Vec<Form> = args.report.iter().map(|path| form(path)).collect::<Result<_, _>>()?;
        let files = args.report.iter().zip(forms).map(|(path, form)| Ok((form, path.clone(), super::create(path)?)));
        let files = files.collect::<anyhow::Result<_>>()?;
        let what_if = WhatIf::start(&axes, settings, rules, privileged, &args.selection.tenant)?;
        let collector = Collector::new(settings.clone(), privileged.clone(), args.report_findings as usize);
        Ok(Some((Reporting { files, axes, what_if }, collector)))
    }

    pub(super) fn take(&self, batch: &Arc<Batch>) {
        self.what_if.take(batch);
    }

    /// Writes the files.
    pub(super) fn finish(self, collector: Collector, feed: &Feed) -> anyhow::Result<()> {
        let grid = self.what_if.finish()?;
        let report = collector.report(Input::of(feed), &self.axes, &grid, host_clock::now());
        for (form, path, mut file) in self.files {
            let written = match form {
                Form::Page => page::html(&report).and_then(|page| file.write_all(page.as_bytes())),
                Form::Json => report.write_json(&mut *file),
            };
            written.and_then(|()| file.flush()).with_context(|| format!("{} can't be written", path.display()))?;
            eprintln!("report: {}", path.display());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_the_form() {
        assert_eq!(form(Path::new("a/b.HTML")).ok(), Some(Form::Page));
        assert_eq!(form(Path::new("r.json")).ok(), Some(Form::Json));
        let error = form(Path::new("r.pdf")).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("r.pdf") && error.contains(".html or .json"), "{error}");
    }
}
