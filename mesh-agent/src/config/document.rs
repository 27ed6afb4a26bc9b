//! Cuts a file into YAML documents, so that a mistake in one cannot reach the others.
//!
//! A line that starts with `---` or `...` followed by white space or nothing ends a document wherever it stands:
//! YAML forbids it inside a document, even in quoted text. So the cut needs no parser and survives any mistake.

/// One document of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// How many lines of the file stand before it.
    pub(super) skipped_lines: u32,
    /// Its text, with the marker that opens it.
    pub(super) text: &'a str,
}

/// The documents of a file in order, also those that hold nothing but comments.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let mut start = Start { offset: 0, line: 0 };
    // Only blank lines, comments and directives so far: a `---` opens this document instead of ending it.
    let mut opened = false;
    let mut offset = 0;
    for (number, line) in (0u32..).zip(text.split_inclusive('\n')) {
        let end = offset + line.len();
        match marker(line) {
            Some(Marker::Open) => {
                if opened {
                    documents.push(start.document(&text[..offset]));
                    start = Start { offset, line: number };
                }
                opened = true;
            }
            Some(Marker::Close) => {
                documents.push(start.document(&text[..end]));
                start = Start {
                    offset: end,
                    line: number + 1,
                };
                opened = false;
            }
            None => opened |= !is_preamble(line),
        }
        offset = end;
    }
    documents.push(start.document(text));
    documents
}

/// Where a document starts.
struct Start {
    offset: usize,
    line: u32,
}

impl Start {
    fn document<'a>(&self, until: &'a str) -> Document<'a> {
        Document {
            skipped_lines: self.line,
            text: &until[self.offset..],
        }
    }
}

enum Marker {
    Open,
    Close,
}

fn marker(line: &str) -> Option<Marker> {
    let (marker, rest) = line.split_at_checked(3)?;
    if !rest.is_empty() && !rest.starts_with([' ', '\t', '\r', '\n']) {
        return None;
    }
    match marker {
        "---" => Some(Marker::Open),
        "..." => Some(Marker::Close),
        _ => None,
    }
}

fn is_preamble(line: &str) -> bool {
    let text = line.trim_start_matches('\u{feff}').trim();
    text.is_empty() || text.starts_with('#') || line.starts_with('%')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(u32, &str)> {
        split(text)
            .into_iter()
            .map(|document| (document.skipped_lines, document.text))
            .collect()
    }

    #[test]
    fn cuts_at_markers_and_counts_lines() {
        assert_eq!(texts(""), [(0, "")]);
        assert_eq!(texts("a: 1\n"), [(0, "a: 1\n")]);
        assert_eq!(texts("a: 1\n---\nb: 2"), [(0, "a: 1\n"), (1, "---\nb: 2")]);
        assert_eq!(
            texts("---\na: 1\n---\n---\n"),
            [(0, "---\na: 1\n"), (2, "---\n"), (3, "---\n")]
        );
        assert_eq!(
            texts("a: 1\r\n--- {b: 2}\r\n"),
            [(0, "a: 1\r\n"), (1, "--- {b: 2}\r\n")]
        );
        assert_eq!(texts("a: 1\n...\n# end\n"), [(0, "a: 1\n...\n"), (2, "# end\n")]);
    }

    #[test]
    fn a_preamble_belongs_to_the_document_after_it() {
        let text = "# license\n\n%YAML 1.2\n---\na: 1\n";
        assert_eq!(texts(text), [(0, text)]);
        assert_eq!(
            texts("a: 1\n...\n%YAML 1.2\n---\nb: 1\n"),
            [(0, "a: 1\n...\n"), (2, "%YAML 1.2\n---\nb: 1\n")]
        );
    }

    #[test]
    fn what_only_looks_like_a_marker_is_text() {
        for text in [
            "a: 1\n---b\n",
            "a: |\n  ---\n",
            "----\n",
            "--\n",
            "é--- \n",
            "a\n...b\n",
        ] {
            assert_eq!(texts(text), [(0, text)]);
        }
    }
}
