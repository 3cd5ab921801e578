//! Line charts as SVG by plotters. Colours are names of the style's variables, so that a chart is dark where the page is.

use plotters::coord::Shift;
use plotters::prelude::*;

/// Stand-ins for colours of the style.
const INK: RGBColor = RGBColor(1, 2, 3);
const GRID: RGBColor = RGBColor(4, 5, 6);
const SERIES: [RGBColor; 5] =
    [RGBColor(11, 1, 1), RGBColor(12, 2, 2), RGBColor(13, 3, 3), RGBColor(14, 4, 4), RGBColor(15, 5, 5)];
const LIMIT: RGBColor = RGBColor(21, 1, 1);
const WIDTH: u32 = 960;
const HEIGHT: u32 = 230;

/// A line.
pub(super) struct Line {
    /// Day and value.
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart: lines over days before today, which is 0.
pub(super) struct Chart<'a> {
    pub(super) lines: Vec<Line>,
    /// A value that should not be passed.
    pub(super) limit: Option<f64>,
    /// Whether the space below the first line is filled.
    pub(super) filled: bool,
    /// Marks at the points.
    pub(super) dots: bool,
    /// Text of a day.
    pub(super) day: &'a dyn Fn(f64) -> String,
    /// Text of a value.
    pub(super) value: &'a dyn Fn(f64) -> String,
}

/// Draws a chart; none when there is nothing to draw, or the library refuses.
pub(super) fn draw(chart: &Chart<'_>) -> Option<String> {
    if chart.lines.iter().all(|l| l.points.is_empty()) {
        return None;
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        lines(&root, chart).ok()?;
        root.present().ok()?;
    }
    Some(styled(&svg))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn lines(area: &DrawingArea<SVGBackend<'_>, Shift>, chart: &Chart<'_>) -> Drawn {
    let all = || chart.lines.iter().flat_map(|l| &l.points);
    let (mut first, mut last) = all().fold((f64::MAX, f64::MIN), |(a, b), (x, _)| (a.min(*x), b.max(*x)));
    if last - first < 1.0 {
        (first, last) = (first - 1.0, last + 1.0);
    }
    let most = all().map(|(_, y)| *y).chain(chart.limit).fold(0.0, f64::max).max(1e-9) * 1.12;
    let font = ("sans-serif", 12).into_font().color(&INK);
    let mut built = ChartBuilder::on(area)
        .margin(8)
        .margin_right(22)
        .x_label_area_size(24)
        .y_label_area_size(72)
        .build_cartesian_2d(first..last, 0.0..most)?;
    built
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(8)
        .y_labels(5)
        .x_label_formatter(&|x| (chart.day)(*x))
        .y_label_formatter(&|y| (chart.value)(*y))
        .axis_style(GRID)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style(font)
        .draw()?;
    for (n, line) in chart.lines.iter().enumerate() {
        let colour = SERIES[n % SERIES.len()];
        if chart.filled && n == 0 {
            built.draw_series(AreaSeries::new(line.points.iter().copied(), 0.0, colour.mix(0.18)))?;
        }
        built.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?;
        if chart.dots || line.points.len() < 3 {
            built.draw_series(line.points.iter().map(|p| Circle::new(*p, 3, colour.filled())))?;
        }
    }
    if let Some(limit) = chart.limit {
        built.draw_series(DashedLineSeries::new([(first, limit), (last, limit)], 6, 4, LIMIT.stroke_width(1)))?;
    }
    Ok(())
}

/// Puts the style's colours in the place of their stand-ins, and lets the width be the page's.
fn styled(svg: &str) -> String {
    let hex = |c: RGBColor| format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2);
    let mut svg = svg.replacen(&format!("width=\"{WIDTH}\" height=\"{HEIGHT}\" "), "", 1);
    svg = svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
    svg = svg.replace(&hex(INK), "var(--soft)").replace(&hex(GRID), "var(--grid)").replace(&hex(LIMIT), "var(--bad)");
    for (n, colour) in SERIES.into_iter().enumerate() {
        svg = svg.replace(&hex(colour), &format!("var(--c{})", n + 1));
    }
    svg.replace('\n', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_of_the_style() {
        let chart = Chart {
            lines: vec![Line { points: vec![(-3.0, 1.0), (0.0, 2.0)] }],
            limit: Some(3.0),
            filled: true,
            dots: true,
            day: &|x| format!("{x:.0}"),
            value: &|y| format!("{y:.0}"),
        };
        let svg = draw(&chart).unwrap();
        assert!(svg.contains("var(--c1)") && svg.contains("var(--bad)") && svg.contains("var(--soft)"), "{svg}");
        assert!(!svg.contains("#01") && !svg.contains("width=\"960\""), "{svg}");
        assert!(draw(&Chart { lines: vec![], ..chart }).is_none());
    }
}
