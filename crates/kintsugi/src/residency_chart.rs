//! The picture of a run's residency: `residency.svg` in its folder.

use std::fmt::Write as _;

use kintsugi_types::ByteCount;

use crate::residency::Point;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 90.0;
/// Room for the names of levels.
const RIGHT: f64 = 130.0;
/// Where the first panel begins, and how high each is with and without its title.
const TOP: f64 = 70.0;
const PANEL: f64 = 150.0;
const PANEL_EACH: f64 = 200.0;

/// One course in a panel.
struct Course<'a> {
    name: &'a str,
    colour: &'a str,
    /// Whether it lies on top of the one before it, with the space between them filled.
    is_stacked: bool,
    value: &'a dyn Fn(&Point) -> u64,
}

/// A level that is drawn across a panel.
struct Level<'a> {
    name: &'a str,
    value: u64,
}

struct Panel<'a> {
    title: &'a str,
    courses: &'a [Course<'a>],
    levels: &'a [Level<'a>],
    written: &'a dyn Fn(u64) -> String,
}

/// Draws `points`. `budget` is what the model may hold, `held` what the engine took of it at start.
pub(crate) fn draw(name: &str, points: &[Point], budget: ByteCount, held: ByteCount) -> String {
    let plain = |count: u64| count.to_string();
    let bytes = |bytes: u64| ByteCount(bytes).to_string();
    let on_the_model = Panel {
        title: "agents with keys and values",
        courses: &[
            Course { name: "resident", colour: "#1b7f5c", is_stacked: true, value: &|point| point.resident },
            Course { name: "swapped", colour: "#d9a441", is_stacked: true, value: &|point| point.swapped },
        ],
        levels: &[],
        written: &plain,
    };
    let all = Panel {
        title: "agents without",
        courses: &[
            Course { name: "waiting", colour: "#6b7f99", is_stacked: true, value: &|point| point.waiting },
            Course { name: "dormant", colour: "#c9d3de", is_stacked: true, value: &|point| point.dormant },
        ],
        levels: &[],
        written: &plain,
    };
    let memory = Panel {
        title: "bytes in use",
        courses: &[
            Course {
                name: "weights and activations",
                colour: "#c9d3de",
                is_stacked: true,
                value: &|point| point.fixed.0,
            },
            Course {
                name: "keys and values",
                colour: "#1b7f5c",
                is_stacked: true,
                value: &|point| point.kv_used.0,
            },
            Course {
                name: "keys and values in host memory",
                colour: "#d9a441",
                is_stacked: false,
                value: &|point| point.kv_host.0,
            },
        ],
        levels: &[
            Level { name: "taken of the budget", value: held.0 },
            Level { name: "85 %", value: held.0 / 100 * 85 },
        ],
        written: &bytes,
    };
    let panels = [on_the_model, all, memory];
    let height = TOP + PANEL_EACH * panels.len() as f64;
    let seconds = points.last().map_or(0.0, |last| last.at.as_secs_f64());
    let mut svg = Svg::default();
    svg.add(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">"#
    ));
    let headline = format!("Residency of {}", escaped(name));
    svg.add(format_args!("<title>{headline}</title>"));
    svg.add(format_args!(r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##));
    svg.add(format_args!(r#"<text x="{LEFT}" y="24" font-size="16">{headline}</text>"#));
    svg.add(format_args!(
        r#"<text x="{LEFT}" y="42">{seconds:.1} s, {} points; the engine took {held} of a budget of {budget}</text>"#,
        points.len()
    ));
    for (number, panel) in panels.iter().enumerate() {
        svg.panel(panel, points, TOP + PANEL_EACH * number as f64, seconds);
    }
    svg.add(format_args!("</svg>"));
    svg.text
}

#[derive(Default)]
struct Svg {
    text: String,
}

impl Svg {
    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a text does not fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn panel(&mut self, panel: &Panel<'_>, points: &[Point], top: f64, seconds: f64) {
        let bottom = top + PANEL;
        let right = WIDTH - RIGHT;
        let most = most_of(panel, points);
        let x = |at: f64| LEFT + (right - LEFT) * if seconds > 0.0 { at / seconds } else { 0.0 };
        let y = |value: u64| bottom - PANEL * value as f64 / most as f64;
        let mut below = vec![0; points.len()];
        let mut legend = LEFT + 210.0;
        for course in panel.courses {
            let mut values: Vec<u64> = points.iter().map(course.value).collect();
            if course.is_stacked {
                values.iter_mut().zip(&below).for_each(|(value, below)| *value += below);
            }
            let at =
                |(point, value): (&Point, &u64)| format!("{:.1},{:.1}", x(point.at.as_secs_f64()), y(*value));
            let mut corners: Vec<String> = points.iter().zip(&values).map(at).collect();
            let colour = course.colour;
            if course.is_stacked {
                corners.extend(points.iter().zip(&below).rev().map(at));
                self.add(format_args!(r#"<polygon fill="{colour}" points="{}"/>"#, corners.join(" ")));
                below = values;
            } else {
                self.add(format_args!(
                    r#"<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{}"/>"#,
                    corners.join(" ")
                ));
            }
            let (square, words) = (top - 20.0, top - 10.0);
            self.add(format_args!(
                r#"<rect x="{legend}" y="{square}" width="10" height="10" fill="{colour}"/>"#
            ));
            self.add(format_args!(r#"<text x="{}" y="{words}">{}</text>"#, legend + 15.0, course.name));
            legend += 45.0 + 7.0 * course.name.len() as f64;
        }
        for level in panel.levels {
            let at = y(level.value);
            self.add(format_args!(
                r##"<line x1="{LEFT}" x2="{right}" y1="{at:.1}" y2="{at:.1}" stroke="#b03a2e" stroke-dasharray="4 3"/>"##
            ));
            self.add(format_args!(
                r##"<text x="{}" y="{:.1}" fill="#b03a2e">{}</text>"##,
                right + 6.0,
                at + 4.0,
                level.name
            ));
        }
        self.axes(panel, (top, bottom), most, seconds);
    }

    fn axes(&mut self, panel: &Panel<'_>, (top, bottom): (f64, f64), most: u64, seconds: f64) {
        let right = WIDTH - RIGHT;
        self.add(format_args!(
            r#"<text x="{LEFT}" y="{}" font-weight="bold">{}</text>"#,
            top - 10.0,
            panel.title
        ));
        self.add(format_args!(
            r##"<path d="M{LEFT} {top}V{bottom}H{right}" fill="none" stroke="#333333"/>"##
        ));
        for (value, at) in [(most, top), (most / 2, f64::midpoint(top, bottom)), (0, bottom)] {
            self.add(format_args!(
                r#"<text x="{}" y="{}" text-anchor="end">{}</text>"#,
                LEFT - 6.0,
                at + 4.0,
                (panel.written)(value)
            ));
        }
        for (share, anchor) in [(0.0, "start"), (0.5, "middle"), (1.0, "end")] {
            self.add(format_args!(
                r#"<text x="{:.1}" y="{}" text-anchor="{anchor}">{:.1} s</text>"#,
                LEFT + (right - LEFT) * share,
                bottom + 15.0,
                seconds * share
            ));
        }
    }
}

/// The highest that a panel has to show; even, so that its half is a number, and never 0.
fn most_of(panel: &Panel<'_>, points: &[Point]) -> u64 {
    let of_point = |point: &Point| {
        let (mut sum, mut alone) = (0, 0);
        for course in panel.courses {
            let value = (course.value)(point);
            if course.is_stacked {
                sum += value;
            } else {
                alone = value.max(alone);
            }
        }
        sum.max(alone)
    };
    let levels = panel.levels.iter().map(|level| level.value);
    points.iter().map(of_point).chain(levels).max().unwrap_or(0).max(1).next_multiple_of(2)
}

/// A text that may stand between two tags.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_picture_shows_every_course_and_stays_within_its_frame() {
        let point = |second: u64| Point {
            at: Duration::from_secs(second),
            resident: second % 12,
            swapped: second % 5,
            waiting: 10,
            dormant: 4_800 - second,
            fixed: ByteCount::mib(9),
            kv_used: ByteCount::mib(second % 3),
            kv_host: ByteCount::mib(20),
        };
        let points: Vec<Point> = (0..100).map(point).collect();
        let svg = draw("a <b> & c", &points, ByteCount::mib(12), ByteCount::mib(12));
        assert!(svg.contains("Residency of a &lt;b&gt; &amp; c"));
        assert_eq!((svg.matches("<polygon").count(), svg.matches("<polyline").count()), (6, 1));
        for corner in svg.split("points=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            for pair in corner.split(' ') {
                let (x, y) = pair.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((0.0..=WIDTH).contains(&x) && (0.0..=TOP + 3.0 * PANEL_EACH).contains(&y), "{pair}");
            }
        }
        // A run without a point has a picture too.
        assert!(draw("none", &[], ByteCount(0), ByteCount(0)).ends_with("</svg>\n"));
    }
}
