//! Charts as SVG, by plotters. Colours are those of the light scheme; the style sheet names them to change them in the dark one
//! (`style.css`, where each of these stands). No text in a chart is foreign.

use crate::report::what_if::WhatIfCell;
use crate::report::{DayRow, Report};
use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::error::Error;
use std::io;

const OPENED: RGBColor = RGBColor(0x1D, 0x6F, 0xD8);
const HIDDEN: RGBColor = RGBColor(0x9D, 0xC1, 0xEE);
const RETRACTED: RGBColor = RGBColor(0xD9, 0x7A, 0x06);
const CLOSED: RGBColor = RGBColor(0x5B, 0x8C, 0x5A);
const WARM_UP: RGBColor = RGBColor(0xF1, 0xEC, 0xE1);
const INK: RGBColor = RGBColor(0x4B, 0x55, 0x63);
const GRID: RGBColor = RGBColor(0xE2, 0xE6, 0xEB);
/// Lines of the what-if charts, one a vendor threshold, from the strictest on; then again from the first.
pub(super) const LINES: [RGBColor; 6] = [
    RGBColor(0x8E, 0xB8, 0xE5),
    RGBColor(0x4C, 0x8F, 0xD9),
    RGBColor(0x1F, 0x62, 0xB5),
    RGBColor(0x12, 0x3D, 0x7A),
    RGBColor(0x7A, 0x4F, 0xB0),
    RGBColor(0xB0, 0x4F, 0x8E),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'c> = ChartContext<'a, SVGBackend<'c>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws on a canvas of this size, in units of which the page makes what it has room for.
fn draw<E: Error + Send + Sync>(
    size: (u32, u32),
    fill: impl FnOnce(&Area<'_>) -> Result<(), DrawingAreaErrorKind<E>>,
) -> io::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        fill(&area).map_err(|error| io::Error::other(format!("a chart can't be drawn: {error}")))?;
        area.present().map_err(|error| io::Error::other(format!("a chart can't be drawn: {error}")))?;
    }
    Ok(svg)
}

fn label(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// The least round number at or above all of these.
fn ceiling(most: f64) -> f64 {
    let power = 10f64.powf(most.max(1.0).log10().floor());
    let step = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0].into_iter().find(|s| s * power >= most * 1.02);
    step.unwrap_or(10.0) * power
}

/// Lines across, and about so many labels on x and y in letters of this size.
fn mesh<'a, 'b, 'c>(
    chart: &'b mut Chart<'a, 'c>,
    labels: [usize; 2],
    size: u32,
) -> MeshStyle<'a, 'b, RangedCoordf64, RangedCoordf64, SVGBackend<'c>> {
    let [x, y] = labels;
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().light_line_style(TRANSPARENT).bold_line_style(GRID).axis_style(GRID);
    mesh.x_labels(x).y_labels(y).label_style(label(size));
    mesh
}

fn count(n: &f64) -> String {
    if n.fract() == 0.0 { super::text::number(*n as u64) } else { String::new() }
}

/// The tallest bar of the days chart, and whether bars of warm-up days are cut off there.
pub(super) fn days_top(days: &[DayRow]) -> (f64, bool) {
    let tallest = |days: &mut dyn Iterator<Item = &DayRow>| {
        days.map(|day| day.all.opened.max(day.all.retracted).max(day.all.closed)).max().unwrap_or(0) as f64
    };
    let settled = tallest(&mut days.iter().filter(|day| !day.warm_up));
    let all = tallest(&mut days.iter());
    // The first days of a baseline would flatten all that matters.
    if settled > 0.0 && all > settled * 3.0 { (ceiling(settled * 1.6), true) } else { (ceiling(all), false) }
}

/// A group of bars a day: opened (what rules match, paler), retracted, closed. Days of warm-up have another ground.
pub(super) fn days(report: &Report) -> io::Result<String> {
    let days = &report.days;
    let (top, _) = days_top(days);
    draw((980, 280), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .x_label_area_size(30)
            .y_label_area_size(48)
            .build_cartesian_2d(-0.5..days.len() as f64 - 0.5, 0.0..top)?;
        let warm = (0..days.len()).filter(|n| days.get(*n).is_some_and(|day| day.warm_up));
        chart.draw_series(warm.map(|n| Rectangle::new([(n as f64 - 0.5, 0.0), (n as f64 + 0.5, top)], WARM_UP.filled())))?;
        mesh(&mut chart, [days.len().min(15), 6], 12)
            .x_label_formatter(&|x| {
                let day = (x.fract() == 0.0).then(|| days.get(*x as usize)).flatten();
                day.map_or_else(String::new, |row| row.day.to_string().get(5..).unwrap_or_default().to_owned())
            })
            .y_label_formatter(&count)
            .draw()?;
        let bar = |n: usize, slot: f64, from: u64, to: u64, colour: RGBColor| {
            let left = n as f64 - 0.39 + slot * 0.26;
            Rectangle::new([(left, (from as f64).min(top)), (left + 0.24, (to as f64).min(top))], colour.filled())
        };
        let bars = days.iter().enumerate().flat_map(|(n, day)| {
            [
                bar(n, 0.0, 0, day.shown.opened, OPENED),
                bar(n, 0.0, day.shown.opened, day.all.opened, HIDDEN),
                bar(n, 1.0, 0, day.all.retracted, RETRACTED),
                bar(n, 2.0, 0, day.all.closed, CLOSED),
            ]
        });
        chart.draw_series(bars)?;
        Ok(())
    })
}

/// A bar for each time to retraction.
pub(super) fn retractions(report: &Report) -> io::Result<String> {
    let buckets = &report.time_to_retraction.buckets;
    let top = ceiling(buckets.iter().map(|b| b.findings).max().unwrap_or(0) as f64);
    draw((480, 220), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .x_label_area_size(28)
            .y_label_area_size(48)
            .build_cartesian_2d(-0.5..buckets.len() as f64 - 0.5, 0.0..top)?;
        mesh(&mut chart, [buckets.len() + 1, 5], 12)
            .x_label_formatter(&|x| {
                let bucket = (x.fract() == 0.0).then(|| buckets.get(*x as usize)).flatten();
                bucket.map_or_else(String::new, |b| if b.within == "longer" { ">24h".into() } else { format!("\u{2264}{}", b.within) })
            })
            .y_label_formatter(&count)
            .draw()?;
        let bars = buckets
            .iter()
            .enumerate()
            .map(|(n, b)| Rectangle::new([(n as f64 - 0.36, 0.0), (n as f64 + 0.36, b.findings as f64)], RETRACTED.filled()));
        chart.draw_series(bars)?;
        Ok(())
    })
}

/// Findings opened a day against the prevalence threshold, a line for each vendor threshold: one lookback. `of` says which number of a
/// cell; `top` is common to all charts that are compared.
pub(super) fn what_if(cells: &[&WhatIfCell], of: impl Fn(&WhatIfCell) -> f64, top: f64) -> io::Result<String> {
    let mut thresholds: Vec<u32> = cells.iter().map(|cell| cell.prevalence_below).collect();
    thresholds.sort_unstable();
    thresholds.dedup();
    let mut vendors: Vec<u32> = cells.iter().map(|cell| cell.vendor_servers_below).collect();
    vendors.sort_unstable();
    vendors.dedup();
    let place = |cell: &WhatIfCell| thresholds.iter().position(|t| *t == cell.prevalence_below).unwrap_or(0) as f64;
    draw((480, 300), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(50)
            .y_label_area_size(56)
            .build_cartesian_2d(-0.3..thresholds.len() as f64 - 0.7, 0.0..top)?;
        mesh(&mut chart, [thresholds.len() * 2, 5], 16)
            .axis_desc_style(label(16))
            .x_desc("prevalence_below")
            .x_label_formatter(&|x| {
                let threshold = (x.fract() == 0.0).then(|| thresholds.get(*x as usize)).flatten();
                threshold.map_or_else(String::new, u32::to_string)
            })
            .y_label_formatter(&|n| if top < 5.0 { format!("{n:.1}") } else { count(n) })
            .draw()?;
        for (vendor, colour) in vendors.iter().zip(LINES.iter().cycle()) {
            let line: Vec<&&WhatIfCell> = cells.iter().filter(|cell| cell.vendor_servers_below == *vendor).collect();
            let points: Vec<(f64, f64)> = line.iter().map(|cell| (place(cell), of(cell))).collect();
            chart.draw_series([PathElement::new(points.clone(), colour.stroke_width(2))])?;
            chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, colour.filled())))?;
            let configured = line.iter().filter(|cell| cell.configured).map(|cell| (place(cell), of(cell)));
            chart.draw_series(configured.map(|point| Circle::new(point, 9, OPENED.stroke_width(2))))?;
        }
        Ok(())
    })
}

/// The top of charts that show these numbers.
pub(super) fn common_top(numbers: impl Iterator<Item = f64>) -> f64 {
    ceiling(numbers.fold(0.0, f64::max))
}
