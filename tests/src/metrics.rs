//! What an agent tells Prometheus, asked for in the namespace of its node.

use anyhow::{Context, Result};

use crate::Node;

/// The metrics of an agent at one moment.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Node {
    /// Asks the agent of this node for its metrics, at the usual address.
    pub fn metrics(&self) -> Result<Metrics> {
        const ASK: &str = "import urllib.request as r; \
                           print(r.urlopen('http://127.0.0.1:15020/metrics', timeout=20).read().decode(), end='')";
        let said = self.command("python3").args(["-c", ASK]).run()?.ok()?;
        Ok(Metrics(said.stdout))
    }
}

impl Metrics {
    /// The whole text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The sum over the series of `name` that have these labels; 0 when there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let mut sum = 0.0;
        for line in self.0.lines() {
            let Some(rest) = line.strip_prefix(name) else {
                continue;
            };
            let (own, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ").with_context(|| line.to_owned())?,
                None if rest.starts_with(' ') => ("", rest.trim_start()),
                None => continue,
            };
            let has = |(name, value): &(&str, &str)| {
                let label = format!("{name}=\"{value}\"");
                own.split("\",")
                    .any(|one| one.trim_end_matches('"') == label.trim_end_matches('"'))
            };
            if labels.iter().all(has) {
                sum += value.parse::<f64>().with_context(|| line.to_owned())?;
            }
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_over_the_series_with_the_labels() {
        let text = "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"22\"} 4\na_totals{x=\"1\"} 9\nb 5.5\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!(metrics.sum("a_total", &[("x", "1")]).unwrap(), 7.0);
        assert_eq!(metrics.sum("a_total", &[("y", "2")]).unwrap(), 3.0);
        assert_eq!(metrics.sum("a_total", &[("y", "2"), ("x", "2")]).unwrap(), 0.0);
        assert_eq!(metrics.sum("b", &[]).unwrap(), 5.5);
    }
}
