use std::error::Error;
use std::path::Path;

use nara_proto::gossip::simulation::Report;
use plotters::prelude::{
    ChartBuilder, Color as _, IntoDrawingArea as _, IntoFont as _, LineSeries, PathElement, RGBColor,
    SVGBackend, SeriesLabelPosition, WHITE,
};

/// Points of a curve: every half percent.
const STEPS: u32 = 200;

/// Colours that most people can distinguish (Okabe and Ito), also in greyscale.
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];

/// The share of naras that have an event, over time.
#[derive(Debug)]
pub(super) struct Curve {
    naras: usize,
    /// For each step: the time in milliseconds of the fastest, the median and the slowest event.
    times: Vec<[f64; 3]>,
}

impl Curve {
    pub(super) fn new(naras: usize, reports: &[Report]) -> Self {
        let events: Vec<_> = reports.iter().flat_map(|report| &report.events).collect();
        let times = (0..=STEPS)
            .map(|step| {
                let part = f64::from(step) / f64::from(STEPS);
                let mut times: Vec<f64> = events
                    .iter()
                    .map(|event| super::milliseconds(event.time_to(part)))
                    .collect();
                times.sort_by(f64::total_cmp);
                let at = |index: usize| times.get(index).copied().unwrap_or_default();
                [at(0), at(times.len() / 2), at(times.len().saturating_sub(1))]
            })
            .collect();
        Self { naras, times }
    }

    /// Returns the points of the fastest (0), median (1) or slowest (2) event.
    fn points(&self, which: usize) -> impl DoubleEndedIterator<Item = (f64, f64)> {
        self.times
            .iter()
            .enumerate()
            .map(move |(step, times)| (times[which], step as f64 * 100.0 / f64::from(STEPS)))
    }
}

/// Draws the curves into an SVG file.
pub(super) fn draw(file: &Path, curves: &[Curve]) -> Result<(), Box<dyn Error + Send + Sync>> {
    let longest = curves
        .iter()
        .flat_map(|curve| curve.points(2))
        .map(|(time, _)| time)
        .fold(0.0, f64::max);
    // The axis ends at a multiple of 50 ms after the last point.
    let end = (longest / 50.0).ceil().max(1.0) * 50.0;
    let area = SVGBackend::new(file, (800, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "An event spreads through the mesh (simulated)",
            ("sans-serif", 20),
        )
        .margin(16)
        .margin_right(28)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, 0.0..100.0)?;
    chart
        .configure_mesh()
        .x_desc("time since the event was made, ms (line: median event, band: fastest to slowest)")
        .y_desc("naras that have it, %")
        .x_labels(12)
        .y_labels(11)
        .x_label_formatter(&|time| format!("{time:.0}"))
        .y_label_formatter(&|part| format!("{part:.0}"))
        .axis_desc_style(("sans-serif", 16))
        .label_style(("sans-serif", 14))
        .light_line_style(WHITE)
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let band: Vec<_> = curve.points(0).chain(curve.points(2).rev()).collect();
        chart.draw_series(std::iter::once(plotters::element::Polygon::new(
            band,
            colour.mix(0.15),
        )))?;
        chart
            .draw_series(LineSeries::new(curve.points(1), colour.stroke_width(2)))?
            .label(format!("{} naras", thousands(curve.naras)))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .margin(16)
        .legend_area_size(32)
        .background_style(WHITE.mix(0.9))
        .border_style(RGBColor(160, 160, 160))
        .label_font(("sans-serif", 15).into_font())
        .draw()?;
    area.present()?;
    Ok(())
}

/// Formats `10000` as `10,000`.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
