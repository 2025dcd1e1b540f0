//! Line charts as SVG: curves over a data set, or over the epochs of a training.

use crate::error::{Error, Result};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use std::ops::Range;

/// The picture in SVG units. plotters rounds positions to whole units, so it draws at twice the size that is shown.
const DRAWN: (u32, u32) = (1440, 960);
const SHOWN: (u32, u32) = (DRAWN.0 / 2, DRAWN.1 / 2);
/// Colours that differ for colour-blind readers too (Okabe and Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
const FONT: &str = "sans-serif";
const LINE: u32 = 4;
const MARK: i32 = 8;

/// A chart with one horizontal and one vertical axis, both linear.
///
/// ```
/// use coronet::plot::{Chart, Series, Style};
///
/// let loss = vec![(1.0, 0.9), (2.0, 0.4), (3.0, 0.3)];
/// let chart = Chart {
///     title: "Training".into(),
///     x_label: "epoch".into(),
///     y_label: "loss".into(),
///     series: vec![Series { name: "training part".into(), points: loss, style: Style::Line }],
///     ..Chart::default()
/// };
/// assert!(chart.svg()?.starts_with("<svg"));
/// # Ok::<(), coronet::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chart {
    /// Above the picture.
    pub title: String,
    /// Below the horizontal axis.
    pub x_label: String,
    /// Beside the vertical axis.
    pub y_label: String,
    /// The ends of the horizontal axis; by default the least and the greatest x.
    pub x_range: Option<(f64, f64)>,
    /// The ends of the vertical axis; by default round numbers around all y.
    pub y_range: Option<(f64, f64)>,
    /// What is drawn, the last on top.
    pub series: Vec<Series>,
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// Stands in the legend; a series without a name does not.
    pub name: String,
    /// (x, y), joined in their order. One that is not finite, or lies outside the axes, leaves a gap.
    pub points: Vec<(f64, f64)>,
    /// How they are drawn.
    pub style: Style,
}

/// How the points of a series are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// A line; a point without neighbours gets a mark.
    #[default]
    Line,
    /// A mark for each point.
    Marks,
    /// Both.
    MarkedLine,
}

impl Chart {
    /// The picture as an SVG document, 720 by 480 pixels on white, with text in the viewer's sans-serif font.
    ///
    /// # Errors
    /// [`Error::Request`] when a range is not finite or does not rise, or the picture cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        let points = || self.series.iter().flat_map(|series| &series.points).filter(|p| sane(p.0) && sane(p.1));
        let mut x = self.axis("x", self.x_range, points().map(|p| p.0))?;
        if points().all(|p| p.0.fract() == 0.0) {
            x.step = x.step.max(1.0); // epochs have no halves
        }
        let mut y = self.axis("y", self.y_range, points().map(|p| p.1))?;
        if self.y_range.is_none() {
            y = y.rounded_out();
        }
        let mut svg = String::new();
        self.draw(&mut svg, x, y)
            .map_err(|problem| Error::Request(format!("the chart '{}' cannot be drawn: {problem}", self.title)))?;
        let size = |(width, height)| format!("width=\"{width}\" height=\"{height}\"");
        Ok(svg.replacen(&size(DRAWN), &size(SHOWN), 1))
    }

    /// An axis over `range`, else from the least to the greatest of `values`.
    fn axis(&self, name: &str, range: Option<(f64, f64)>, values: impl Iterator<Item = f64>) -> Result<Axis> {
        if let Some((from, to)) = range {
            return Axis::over(from, to).ok_or_else(|| {
                Error::Request(format!("the {name} axis of '{}' cannot reach from {from} to {to}", self.title))
            });
        }
        let (from, to) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let axis = Axis::over(from, to).or_else(|| {
            let by = if from == 0.0 { 0.5 } else { from.abs() / 2.0 };
            Axis::over(from - by, to + by)
        });
        Ok(axis.unwrap_or(Axis { from: 0.0, to: 1.0, step: 0.1 }))
    }

    fn draw(&self, svg: &mut String, x: Axis, y: Axis) -> Result<(), Box<dyn std::error::Error + '_>> {
        let paper = SVGBackend::with_string(svg, DRAWN).into_drawing_area();
        paper.fill(&WHITE)?;
        let paper = paper.margin(16, 0, 0, 0);
        let below_title = paper.titled(&text(&self.title), (FONT, 42).into_text_style(&paper))?;
        let mut chart = ChartBuilder::on(&below_title)
            .margin(28)
            .margin_right(48)
            .x_label_area_size(96)
            .y_label_area_size(144)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(text(&self.x_label))
            .y_desc(text(&self.y_label))
            .set_all_tick_mark_size(10)
            .label_style((FONT, 30))
            .axis_desc_style((FONT, 34))
            .axis_style(RGBColor(90, 90, 90).stroke_width(2))
            .bold_line_style(RGBColor(222, 222, 222).stroke_width(2))
            .draw()?;
        for (series, &colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            draw_series(&mut chart, series, colour, x, y)?;
        }
        if self.series.iter().any(|series| !series.name.is_empty()) {
            chart
                .configure_series_labels()
                .position(self.emptiest_corner(x, y))
                .margin(24)
                .legend_area_size(64)
                .label_font((FONT, 30))
                .background_style(WHITE.mix(0.85))
                .border_style(RGBColor(200, 200, 200).stroke_width(2))
                .draw()?;
        }
        paper.present()?;
        Ok(())
    }

    /// The corner of the picture where the lines leave most room for a legend.
    fn emptiest_corner(&self, x: Axis, y: Axis) -> SeriesLabelPosition {
        const STEPS: u32 = 32;
        let mut corners = [
            (SeriesLabelPosition::LowerRight, 1.0, 0.0),
            (SeriesLabelPosition::LowerLeft, 0.0, 0.0),
            (SeriesLabelPosition::UpperRight, 1.0, 1.0),
            (SeriesLabelPosition::UpperLeft, 0.0, 1.0),
        ]
        .map(|(position, right, top)| (position, right, top, 0));
        for run in self.series.iter().flat_map(|series| visible_runs(&series.points, x, y)) {
            let lines = run.windows(2).flat_map(|ends| {
                let [(x0, y0), (x1, y1)] = [ends[0], ends[1]];
                (0..STEPS)
                    .map(move |i| f64::from(i) / f64::from(STEPS))
                    .map(move |t| (x0 + t * (x1 - x0), y0 + t * (y1 - y0)))
            });
            for point in lines.chain(run.last().copied()) {
                for (_, right, top, points) in &mut corners {
                    let (across, up) = (x.share(point.0) - *right, y.share(point.1) - *top);
                    *points += u32::from(across.abs() < 0.5 && up.abs() < 0.3);
                }
            }
        }
        corners.into_iter().min_by_key(|corner| corner.3).map_or(SeriesLabelPosition::LowerRight, |corner| corner.0)
    }
}

type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;

fn draw_series<'a, 'b: 'a>(
    chart: &mut Plane<'a, 'b>,
    series: &Series,
    colour: RGBColor,
    x: Axis,
    y: Axis,
) -> Result<(), Box<dyn std::error::Error>> {
    let (line, marks) = (series.style != Style::Marks, series.style != Style::Line);
    let mut runs = visible_runs(&series.points, x, y);
    let lonely = |run: &[(f64, f64)]| run.len() == 1;
    let marked: Vec<_> = runs.iter().filter(|run| marks || lonely(run)).flatten().copied().collect();
    runs.retain(|run| line && !lonely(run));
    for run in runs {
        chart.draw_series(LineSeries::new(run, colour.stroke_width(LINE)))?;
    }
    let drawn = chart.draw_series(marked.into_iter().map(|point| Circle::new(point, MARK, colour.filled())))?;
    if !series.name.is_empty() {
        drawn.label(text(&series.name)).legend(move |(x, y)| {
            let length = if line { 44 } else { 0 };
            let sample =
                EmptyElement::at((x, y)) + PathElement::new(vec![(0, 0), (length, 0)], colour.stroke_width(LINE));
            sample + Circle::new((22, 0), if marks { MARK } else { 0 }, colour.filled())
        });
    }
    Ok(())
}

/// The points in stretches without a gap.
fn visible_runs(points: &[(f64, f64)], x: Axis, y: Axis) -> Vec<Vec<(f64, f64)>> {
    let visible = |point: &(f64, f64)| x.holds(point.0) && y.holds(point.1);
    points.split(|point| !visible(point)).filter(|run| !run.is_empty()).map(<[_]>::to_vec).collect()
}

/// Finite, and far enough from the greatest number that differences are finite too.
fn sane(value: f64) -> bool {
    value.abs() < 1e300
}

/// An axis and where its labels stand. plotters has one too, but cannot be told where, and panics on some ranges.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Axis {
    from: f64,
    to: f64,
    /// From one label to the next: 1, 2 or 5 times a power of ten.
    step: f64,
}

impl Axis {
    /// With at most eleven labels. `None` unless it rises, by more than rounding.
    fn over(from: f64, to: f64) -> Option<Axis> {
        let span = to - from;
        if !sane(from) || !sane(to) || span < 1e-300 || span < 1e-9 * from.abs().max(to.abs()) {
            return None;
        }
        let least = span / 10.0;
        let power = 10f64.powf(least.log10().floor());
        let step = [1.0, 2.0, 5.0].map(|s| s * power).into_iter().find(|&s| s >= least * (1.0 - 1e-6));
        Some(Axis { from, to, step: step.unwrap_or(10.0 * power) })
    }

    /// With labels at both ends. 3 * 0.1 is more than 0.3: rounding takes nothing off the axis.
    fn rounded_out(self) -> Axis {
        let Axis { from, to, step } = self;
        let (below, above) = ((from / step + 1e-6).floor() * step, (to / step - 1e-6).ceil() * step);
        Axis { from: below.min(from), to: above.max(to), step }
    }

    fn holds(&self, value: f64) -> bool {
        (self.from..=self.to).contains(&value)
    }

    /// How far along the axis, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from)
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (self.share(*value) * f64::from(to - from)).round() as i32
    }

    /// Where labels and lines of the grid are; there are no lines between.
    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        let first = (self.from / self.step - 1e-6).ceil();
        let labels = (self.to / self.step + 1e-6).floor() - first;
        (0..=labels as u32).map(|i| (first + f64::from(i)) * self.step + 0.0).collect() // + 0 takes the sign off -0
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    /// With as many decimals as the step has.
    fn format_ext(&self, value: &f64) -> String {
        let magnitude = |x: f64| x.abs().log10().floor();
        if *value != 0.0 && !(1e-6..1e7).contains(&self.step) {
            let digits = (magnitude(*value) - magnitude(self.step)).max(0.0) as usize;
            return format!("{value:.digits$e}");
        }
        let decimals = (-magnitude(self.step * 1.000_001)).max(0.0) as usize;
        format!("{value:.decimals$}")
    }
}

/// Without the characters that XML does not allow.
fn text(words: &str) -> String {
    words.chars().filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chart(points: &[(f64, f64)], style: Style) -> Chart {
        let series = vec![Series { name: "one".into(), points: points.to_vec(), style }];
        Chart { title: "A < B & C".into(), x_label: "x".into(), y_label: "y".into(), series, ..Chart::default() }
    }

    /// How many elements of this kind are drawn in the first series' colour.
    fn drawn(svg: &str, element: &str) -> usize {
        let document = roxmltree::Document::parse(svg).unwrap();
        let in_colour = |node: &roxmltree::Node<'_, '_>| {
            ["stroke", "fill"]
                .iter()
                .any(|&name| node.attribute(name).is_some_and(|c| c.eq_ignore_ascii_case("#0072b2")))
        };
        document.descendants().filter(|node| node.has_tag_name(element)).filter(in_colour).count()
    }

    fn words(svg: &str) -> Vec<String> {
        let document = roxmltree::Document::parse(svg).unwrap();
        let texts = document.descendants().filter(|node| node.has_tag_name("text"));
        texts.filter_map(|node| node.text()).map(|text| text.trim().to_owned()).collect()
    }

    #[test]
    fn a_chart_is_xml_that_says_its_title_labels_and_names() {
        let svg = chart(&[(0.0, 0.0), (1.0, 1.0)], Style::Line).svg().unwrap();
        assert!(svg.starts_with("<svg width=\"720\" height=\"480\" viewBox=\"0 0 1440 960\""), "{}", &svg[..80]);
        let words = words(&svg);
        for word in ["A < B & C", "x", "y", "one", "0.0", "0.1", "1.0"] {
            assert!(words.iter().any(|w| w == word), "{word} is not among {words:?}");
        }
    }

    /// Each line counts twice, with its sample in the legend.
    #[test]
    fn points_that_are_not_finite_leave_a_gap() {
        let nan = f64::NAN;
        let points = [(0.0, 1.0), (1.0, 2.0), (2.0, nan), (3.0, 1.0), (nan, 1.0), (4.0, 2.0), (5.0, 1.0)];
        let svg = chart(&points, Style::Line).svg().unwrap();
        assert_eq!(drawn(&svg, "polyline"), 2 + 1);
        assert!(!svg.contains("NaN"));
        assert_eq!(drawn(&chart(&points, Style::Marks).svg().unwrap(), "circle"), 5 + 1);
    }

    #[test]
    fn points_outside_a_given_range_are_not_drawn() {
        let mut chart = chart(&[(0.0, 0.0), (1.0, 5.0), (2.0, 0.5), (3.0, 0.5)], Style::MarkedLine);
        chart.y_range = Some((0.0, 1.0));
        assert_eq!(drawn(&chart.svg().unwrap(), "circle"), 3 + 1);
    }

    /// Without the point at 0.3, which is less than 3 * 0.1, there would be two lonely points and no line.
    #[test]
    fn the_least_and_the_greatest_point_are_on_the_axis() {
        let points = [(0.0, 1.0), (1.0, 0.3), (2.0, 1.0)];
        let chart = chart(&points, Style::Line);
        assert_eq!(drawn(&chart.svg().unwrap(), "polyline"), 1 + 1);
        let axis = |from, to| Axis::over(from, to).unwrap().rounded_out();
        assert_eq!(visible_runs(&points, axis(0.0, 2.0), axis(0.3, 1.0)), [points]);
        assert_eq!(labels(0.3, 1.0), ["0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]);
        for (from, to) in (0..100u32).flat_map(|from| (from + 1..=100).map(move |to| (from, to))) {
            let (from, to) = (f64::from(from) / 100.0, f64::from(to) / 100.0);
            let rounded = axis(from, to);
            assert!(rounded.holds(from) && rounded.holds(to), "{from} to {to}: {rounded:?}");
        }
    }

    #[test]
    fn epochs_are_labelled_with_whole_numbers() {
        let svg = chart(&[(1.0, 0.8), (2.0, 0.85), (4.0, 0.95)], Style::Line).svg().unwrap();
        let words = words(&svg);
        assert!(["1", "2", "3", "4"].iter().all(|n| words.iter().any(|w| w == n)), "{words:?}");
        assert!(!words.iter().any(|w| w == "1.5"), "{words:?}");
    }

    #[test]
    fn the_legend_stands_where_no_line_is() {
        let unit = Axis::over(0.0, 1.0).unwrap();
        let falling = chart(&[(0.0, 1.0), (1.0, 0.0)], Style::Line);
        assert!(matches!(falling.emptiest_corner(unit, unit), SeriesLabelPosition::LowerLeft));
        let rising = chart(&[(0.0, 0.0), (1.0, 1.0)], Style::Line);
        assert!(matches!(rising.emptiest_corner(unit, unit), SeriesLabelPosition::LowerRight));
    }

    #[test]
    fn ranges_that_do_not_rise_are_refused() {
        for range in [(1.0, 1.0), (2.0, 1.0), (0.0, f64::NAN), (0.0, f64::INFINITY)] {
            let mut chart = chart(&[(0.0, 0.0)], Style::Line);
            chart.x_range = Some(range);
            let error = chart.svg().unwrap_err().to_string();
            assert!(error.starts_with("the x axis of 'A < B & C' cannot reach from "), "{error}");
        }
    }

    fn labels(from: f64, to: f64) -> Vec<String> {
        let axis = Axis::over(from, to).unwrap().rounded_out();
        axis.key_points(plotters::coord::ranged1d::BoldPoints(0)).iter().map(|value| axis.format_ext(value)).collect()
    }

    #[test]
    fn labels_are_round_numbers_with_the_decimals_they_need() {
        assert_eq!(
            labels(0.03, 0.47),
            ["0.00", "0.05", "0.10", "0.15", "0.20", "0.25", "0.30", "0.35", "0.40", "0.45", "0.50"]
        );
        assert_eq!(labels(12.0, 87.0), ["10", "20", "30", "40", "50", "60", "70", "80", "90"]);
        assert_eq!(labels(-0.7, 0.9), ["-0.8", "-0.6", "-0.4", "-0.2", "0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(0.0, 1.0).len(), 11);
        assert_eq!(labels(1e-4, 4e-4)[..2], ["0.00010", "0.00015"]);
        assert_eq!(labels(0.0, 3e9)[..2], ["0", "5e8"]);
        assert_eq!(labels(8e9, 12e9)[..2], ["8.0e9", "8.5e9"]);
    }

    proptest! {
        #[test]
        fn any_points_make_a_picture(
            points in proptest::collection::vec((any::<f64>(), any::<f64>()), 0..12),
            scale in prop_oneof![Just(f64::MAX), Just(1e9), Just(1e-300), Just(1e-12)],
            name in any::<String>(),
        ) {
            let points: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x % scale, y % scale)).collect();
            let mut chart = chart(&points, Style::MarkedLine);
            chart.series[0].name = name;
            let svg = chart.svg().unwrap();
            prop_assert!(roxmltree::Document::parse(&svg).is_ok(), "{}", svg);
        }
    }
}
