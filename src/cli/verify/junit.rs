//! A verification as JUnit XML, the form that CI systems read: a test case for every check, by operator.

use super::{Report, problem};
use coronet::verify::Finding;
use std::fmt::Write;

/// The document.
pub fn document(report: &Report) -> String {
    let (tests, seconds) = (report.findings.len(), report.elapsed.as_secs_f64());
    let errors = report.findings.iter().filter(|finding| finding.verdict.is_err()).count();
    let failures = report.failures() - errors;
    let counts = format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{seconds:.3}\"");
    let device = escaped(&report.device);
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a String cannot fail.
    let _ = writeln!(xml, "<testsuites name=\"coronet verify\" {counts}>");
    let _ = writeln!(xml, "  <testsuite name=\"{device}\" {counts}>");
    for finding in &report.findings {
        xml += &test_case(report, finding);
    }
    xml + "  </testsuite>\n</testsuites>\n"
}

fn test_case(report: &Report, finding: &Finding) -> String {
    let Finding { check, verdict } = finding;
    let (class, name) = (check.case().op.variant(), escaped(&check.to_string()));
    let seconds = verdict.as_ref().map_or(0.0, |verdict| verdict.time.as_secs_f64());
    let head = format!("    <testcase classname=\"{class}\" name=\"{name}\" time=\"{seconds:.6}\"");
    let Some(problem) = problem(finding) else { return format!("{head}/>\n") };
    let kind = if verdict.is_ok() { "failure" } else { "error" };
    let (message, again) = (escaped(&problem), escaped(&report.again(check)));
    format!("{head}>\n      <{kind} message=\"{message}\">{again}</{kind}>\n    </testcase>\n")
}

/// Text for an attribute or an element; what XML 1.0 cannot hold at all becomes U+FFFD.
fn escaped(text: &str) -> String {
    let mut xml = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => xml += "&amp;",
            '<' => xml += "&lt;",
            '>' => xml += "&gt;",
            '"' => xml += "&quot;",
            '\'' => xml += "&apos;",
            '\t' | '\n' | '\r' => {
                let _ = write!(xml, "&#{};", u32::from(character));
            }
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => xml.push('\u{fffd}'),
            other => xml.push(other),
        }
    }
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back_as_it_was_but_for_what_xml_cannot_hold() {
        let text = "a < b && \"c\" > 'd'\n\té ]]>\u{1}\u{fffe}";
        let xml = format!("<e a=\"{0}\">{0}</e>", escaped(text));
        let document = roxmltree::Document::parse(&xml).unwrap();
        let expected = text.replace(['\u{1}', '\u{fffe}'], "\u{fffd}");
        assert_eq!(document.root_element().attribute("a"), Some(expected.as_str()));
        assert_eq!(document.root_element().text(), Some(expected.as_str()));
    }
}
