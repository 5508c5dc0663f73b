//! The picture of the placement experiment: what an attacker lacks against what the program pays.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::placement::{Kind, Point};

const SIZE: (u32, u32) = (1500, 1000);

/// What one panel shows.
struct Panel {
    title: &'static str,
    bits: fn(&Point) -> f64,
    time: fn(&Point) -> Option<f64>,
    kinds: [Kind; 2],
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "Which chunk lies behind a given one: three programs",
        bits: |point| Point::least(&point.after),
        time: |point| point.programs,
        kinds: [Kind::Order, Kind::Profile],
    },
    Panel {
        title: "Which chunk lies behind a given one: walks over a list and a tree",
        bits: |point| Point::least(&point.after),
        time: |point| point.walks,
        kinds: [Kind::Order, Kind::Profile],
    },
    Panel {
        title: "The next address: all six workloads",
        bits: |point| Point::least(&point.next),
        time: |point| point.all,
        kinds: [Kind::Order, Kind::Profile],
    },
    Panel {
        title: "When a freed slot returns: all six workloads",
        bits: |point| point.returns.guess.abs(),
        time: |point| point.all,
        kinds: [Kind::Return, Kind::Return],
    },
];

/// Draws the panels into an SVG file.
pub fn draw(file: &Path, points: &[Point]) -> Result<(), String> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(text_of)?;
    for (part, panel) in area.split_evenly((2, 2)).iter().zip(&PANELS) {
        draw_panel(part, panel, points)?;
    }
    area.present().map_err(text_of)
}

/// Bits on a scale that shows tenths as well as tens.
fn stretched(bits: f64) -> f64 {
    (bits + 0.1).log2()
}

fn draw_panel(area: &DrawingArea<SVGBackend<'_>, Shift>, panel: &Panel, points: &[Point]) -> Result<(), String> {
    let shown: Vec<(&Point, f64, f64)> = points
        .iter()
        .filter(|point| panel.kinds.contains(&point.kind))
        .filter_map(|point| Some((point, stretched((panel.bits)(point)), (panel.time)(point)?.log2())))
        .collect();
    let most_bits = shown.iter().map(|(_, bits, _)| *bits).fold(stretched(1.0), f64::max);
    let most = shown.iter().map(|(_, _, time)| *time).fold(0.15, f64::max);
    let least = shown.iter().map(|(_, _, time)| *time).fold(-0.03, f64::min);
    let room = (most - least) * 0.06;
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(stretched(0.0) - 0.2..most_bits + 1.6, least - room..most + room)
        .map_err(text_of)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .x_desc("bits that an attacker lacks")
        .y_desc("processor time ×")
        .x_labels(8)
        .x_label_formatter(&|bits| format!("{:.1}", (bits.exp2() - 0.1).max(0.0)))
        .y_label_formatter(&|time| format!("{:.2}", time.exp2()))
        .draw()
        .map_err(text_of)?;
    // Names that would lie on each other are moved apart, lowest first.
    let mut in_order: Vec<_> = shown
        .iter()
        .map(|(point, bits, time)| {
            let at = chart.backend_coord(&(*bits, *time));
            let (left, top) = area.get_base_pixel();
            (*point, (at.0 - left, at.1 - top))
        })
        .collect();
    in_order.sort_by_key(|(_, at)| -at.1);
    let mut names: Vec<(i32, i32)> = Vec::new();
    for (point, at) in in_order {
        let mut name = (at.0 + 9, at.1 - 6);
        while names.iter().any(|other| (other.0 - name.0).abs() < 165 && (other.1 - name.1).abs() < 13) {
            name.1 -= 1;
        }
        names.push(name);
        let (color, radius) = if point.kind == Kind::Profile { (RED, 6) } else { (BLUE, 4) };
        area.draw(&PathElement::new(vec![at, (name.0 - 1, name.1 + 6)], BLACK.mix(0.3))).map_err(text_of)?;
        area.draw(&Circle::new(at, radius, color.filled())).map_err(text_of)?;
        area.draw(&Text::new(point.name.clone(), name, ("sans-serif", 13))).map_err(text_of)?;
    }
    Ok(())
}

fn text_of(error: impl std::fmt::Display) -> String {
    format!("cannot draw: {error}")
}
