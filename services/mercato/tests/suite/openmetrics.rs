//! Reads the text form of OpenMetrics 1.0.0 as strictly as its standard allows.

use std::collections::{BTreeMap, BTreeSet};

/// A measurement that names the trace it was part of.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// The sample it is told with, without labels.
    pub sample: String,
    pub trace: String,
    /// In the unit of the metric.
    pub value: f64,
}

/// The exemplars of a text.
///
/// # Errors
/// What is wrong with the text first, with its line.
pub fn read(text: &str) -> Result<Vec<Exemplar>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("does not end in # EOF")?;
    if !body.is_empty() && !body.ends_with('\n') {
        return Err("the end stands in a line of something else".into());
    }
    let mut reader = Reader::default();
    for (nth, line) in body.lines().enumerate() {
        reader.line(line).map_err(|what| format!("line {}: {what}: {line}", nth + 1))?;
    }
    reader.close()?;
    Ok(reader.exemplars)
}

type Labels = BTreeMap<String, String>;

#[derive(Default)]
struct Reader {
    /// Every name a sample of a finished or the present metric may have.
    names: BTreeSet<String>,
    name: String,
    kind: String,
    helped: bool,
    /// Samples of the present metric: name, labels, value.
    samples: Vec<(String, Labels, f64)>,
    exemplars: Vec<Exemplar>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("help without a text")?;
            if name == self.name && (self.helped || !self.samples.is_empty()) {
                return Err("help where none may be".into());
            }
            self.begin(name)?;
            self.helped = true;
            let bare = help.replace("\\\\", "").replace("\\n", "").replace("\\\"", "");
            if bare.contains(['\\', '"']) { Err("a sign of the help must be escaped".into()) } else { Ok(()) }
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("a type without a kind")?;
            if name == self.name && (!self.kind.is_empty() || !self.samples.is_empty()) {
                return Err("a type where none may be".into());
            }
            self.begin(name)?;
            let names: &[&str] = match kind {
                "counter" => &["_total", "_created"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count", "_created"],
                _ => return Err("a kind we do not have".into()),
            };
            self.kind = kind.to_owned();
            match names.iter().find(|ending| !self.names.insert(format!("{name}{ending}"))) {
                Some(ending) => Err(format!("{name}{ending} is another metric already")),
                None => Ok(()),
            }
        } else if line.starts_with('#') || line.trim() != line || line.is_empty() {
            Err("neither a sample nor about a metric".into())
        } else {
            self.sample(line)
        }
    }

    /// Goes on to the metric of this name, unless it is the present one.
    fn begin(&mut self, name: &str) -> Result<(), String> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || !name.chars().all(good) {
            return Err("no name of a metric".into());
        }
        if name != self.name {
            self.close()?;
            (self.name, self.kind, self.helped) = (name.to_owned(), String::new(), false);
        }
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let end = line.find(['{', ' ']).ok_or("a sample without a value")?;
        let (name, rest) = line.split_at(end);
        let ending = name.strip_prefix(&self.name).ok_or("a sample outside its metric")?;
        let fits = match self.kind.as_str() {
            "counter" => ending == "_total",
            "gauge" => ending.is_empty(),
            "histogram" => ["_bucket", "_sum", "_count"].contains(&ending),
            _ => false,
        };
        if !fits {
            return Err(format!("no sample of a {}", self.kind));
        }
        let (labels, rest) = if rest.starts_with('{') { labels(rest)? } else { (Labels::new(), rest) };
        let (value, exemplar) = rest.split_once(" # ").map_or((rest, None), |(value, exemplar)| (value, Some(exemplar)));
        let value = number(value.strip_prefix(' ').ok_or("no space before the value")?)?;
        if self.kind != "gauge" && (value.is_nan() || value < 0.0) {
            return Err("something counted is below zero".into());
        }
        if let Some(exemplar) = exemplar {
            let below = self.samples.last().filter(|(last, ..)| last == name).and_then(|(_, last, _)| same_but_le(last, &labels));
            self.exemplars.push(self.exemplar(name, ending, exemplar, below, &labels)?);
        }
        if self.samples.iter().any(|(known, with, _)| known == name && *with == labels) {
            return Err("told twice".into());
        }
        self.samples.push((name.to_owned(), labels, value));
        Ok(())
    }

    fn exemplar(&self, name: &str, ending: &str, text: &str, below: Option<f64>, series: &Labels) -> Result<Exemplar, String> {
        if !["_bucket", "_total"].contains(&ending) {
            return Err("no place for an exemplar".into());
        }
        let (labels, rest) = labels(text)?;
        if labels.iter().map(|(name, value)| name.chars().count() + value.chars().count()).sum::<usize>() > 128 {
            return Err("the exemplar's labels are too long".into());
        }
        let mut numbers = rest.strip_prefix(' ').ok_or("an exemplar without a value")?.split(' ').map(number);
        let value = numbers.next().ok_or("an exemplar without a value")??;
        let at = numbers.next().transpose()?;
        if numbers.next().is_some() || at.is_some_and(|at| !at.is_finite()) {
            return Err("more than value and time".into());
        }
        let most = series.get("le").map_or(Ok(f64::INFINITY), |le| number(le))?;
        if value > most || below.is_some_and(|below| value <= below) {
            return Err("the exemplar is of another bucket".into());
        }
        let trace = labels.get("trace_id").cloned().ok_or("an exemplar without a trace")?;
        if trace.len() != 32 || !trace.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)) {
            return Err("no id of a trace".into());
        }
        Ok(Exemplar { sample: name.to_owned(), trace, value })
    }

    /// Looks at the whole of a metric when it has ended.
    fn close(&mut self) -> Result<(), String> {
        let samples = std::mem::take(&mut self.samples);
        if !samples.is_empty() && self.kind.is_empty() {
            return Err(format!("{} has no type", self.name));
        }
        if self.kind != "histogram" {
            return Ok(());
        }
        let wrong = |what: &str| Err(format!("{}: {what}", self.name));
        let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for (_, labels, count) in samples.iter().filter(|(name, ..)| name.ends_with("_bucket")) {
            let mut of = labels.clone();
            let le = of.remove("le").ok_or_else(|| format!("{}: a bucket without an end", self.name))?;
            if le != "+Inf" && !le.contains(['.', 'e']) {
                return wrong("the end of a bucket is not written as a fraction");
            }
            series.entry(of).or_default().push((number(&le)?, *count));
        }
        for (labels, buckets) in &series {
            let whole = |ending: &str| samples.iter().find(|(name, with, _)| name.ends_with(ending) && with == labels);
            if buckets.windows(2).any(|two| two[0].0 >= two[1].0 || two[0].1 > two[1].1) {
                return wrong("buckets do not grow");
            }
            let last = buckets.last().filter(|(end, _)| *end == f64::INFINITY);
            let (Some((_, most)), Some((_, _, count)), Some(_)) = (last, whole("_count"), whole("_sum")) else {
                return wrong("a histogram has an infinite bucket, a sum and a count");
            };
            if most != count {
                return wrong("the count differs from the buckets");
            }
        }
        let without = samples.iter().any(|(name, labels, _)| !name.ends_with("_bucket") && !series.contains_key(labels));
        if without { wrong("a sum or count without buckets") } else { Ok(()) }
    }
}

/// The end of the bucket before, if the sample before is one of the same series.
fn same_but_le(last: &Labels, next: &Labels) -> Option<f64> {
    let without =
        |labels: &Labels| labels.iter().filter(|(name, _)| *name != "le").map(|(n, v)| (n.clone(), v.clone())).collect::<Labels>();
    (without(last) == without(next)).then(|| number(last.get("le")?).ok()).flatten()
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if text.bytes().all(|c| c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E' | b'+' | b'-')) => {
            text.parse().map_err(|_| format!("{text:?} is no number"))
        }
        _ => Err(format!("{text:?} is no number")),
    }
}

/// Labels in braces, and what comes after them.
fn labels(text: &str) -> Result<(Labels, &str), String> {
    let mut rest = text.strip_prefix('{').ok_or("no labels")?;
    let mut found = Labels::new();
    if let Some(rest) = rest.strip_prefix('}') {
        return Ok((found, rest));
    }
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(good) {
            return Err(format!("{name:?} is no name of a label"));
        }
        let (mut value, mut signs) = (String::new(), after.char_indices());
        let end = loop {
            match signs.next().ok_or("a value without an end")? {
                (at, '"') => break at,
                (_, '\\') => match signs.next().ok_or("a value without an end")?.1 {
                    'n' => value.push('\n'),
                    sign @ ('\\' | '"') => value.push(sign),
                    _ => return Err("an escape that is none".into()),
                },
                (_, sign) => value.push(sign),
            }
        };
        if found.insert(name.to_owned(), value).is_some() {
            return Err(format!("{name} twice"));
        }
        rest = &after[end + 1..];
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((found, rest));
        }
        rest = rest.strip_prefix(',').ok_or("labels without a comma")?;
    }
}

const GOOD: &str = "# HELP a Calls \\\"of\\\" ours.\n# TYPE a counter\na_total{who=\"x\\\"}\"} 3\na_total 1\n# TYPE b gauge\nb -1.5\n\
    # TYPE c histogram\nc_sum{who=\"x\"} 0.3\nc_count{who=\"x\"} 2\nc_bucket{le=\"0.1\",who=\"x\"} 1\n\
    c_bucket{le=\"0.5\",who=\"x\"} 2 # {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"} 0.2 1700000000.5\n\
    c_bucket{le=\"+Inf\",who=\"x\"} 2\n# EOF\n";

#[test]
fn a_good_text_is_read() {
    let exemplar = Exemplar { sample: "c_bucket".into(), trace: "4bf92f3577b34da6a3ce929d0e0e4736".into(), value: 0.2 };
    assert_eq!(read(GOOD), Ok(vec![exemplar]));
    assert_eq!(read("# EOF\n"), Ok(vec![]));
}

/// Each is the good text with one fault in it.
#[test]
fn a_faulty_text_is_refused() {
    for (good, bad) in [
        ("# EOF\n", ""),
        ("# EOF\n", "# EOF\n\n"),
        ("# TYPE b", "\n# TYPE b"),
        ("# TYPE a counter\n", "# TYPE a_total counter\n"),
        ("# TYPE a counter\n", ""),
        ("# TYPE a counter\n", "# TYPE a counter\n# TYPE a counter\n"),
        ("# TYPE b gauge\nb -1.5\n", "# TYPE a_total gauge\na_total -1.5\n"),
        ("\\\"of\\\"", "\"of\""),
        ("a_total 1", "a 1"),
        ("a_total 1", "a_total -1"),
        ("a_total 1", "a_total one"),
        ("a_total 1", "a_total{who=\"x\\\"}\"} 1"),
        ("a_total 1", "a_total{who=\"\\x\"} 1"),
        ("b -1.5", "b -1.5 # {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"} 1"),
        ("b -1.5\n", "b -1.5\na_total{who=\"y\"} 1\n"),
        ("c_count{who=\"x\"} 2", "c_count{who=\"x\"} 3"),
        ("c_sum{who=\"x\"} 0.3\n", ""),
        ("le=\"0.1\"", "le=\"1\""),
        ("le=\"0.1\"", "le=\"0.7\""),
        ("} 0.2 17", "} 0.05 17"),
        ("} 0.2 17", "} 0.6 17"),
        ("} 0.2 17", "} 0.2 5 17"),
        ("trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"", "trace_id=\"4bf9\""),
        ("trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"", "span_id=\"4bf92f3577b34da6\""),
        ("c_bucket{le=\"+Inf\",who=\"x\"} 2\n", ""),
    ] {
        assert!(GOOD.contains(good), "{good}");
        let text = GOOD.replacen(good, bad, 1);
        assert!(read(&text).is_err(), "{bad:?} in place of {good:?} was read");
    }
}
