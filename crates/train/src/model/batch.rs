//! What one pass through the network works on.

/// Documents that share a prefix, packed without padding.
///
/// All documents of an agent kind begin with the same system message. It is computed once a batch, and every
/// document attends to it as its past: the result is that of computing each document with its own copy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// The prefix, then the documents, end to end.
    pub tokens: Vec<u32>,
    /// Where they begin and end; the first is the prefix, unless that is empty. None is empty.
    pub segments: Vec<Segment>,
    /// The positions that carry loss, in rising order of row.
    pub targets: Vec<Target>,
    /// Tokens of the prefix.
    pub prefix_len: usize,
}

/// One run of tokens that attend to each other and to their past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First row in the batch.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
    /// Tokens of the prefix that it attends to: 0 for the prefix itself.
    pub past: usize,
}

/// What the network should say after a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// The row whose output predicts.
    pub row: usize,
    /// The token that follows.
    pub token: u32,
    /// How much its loss counts.
    pub weight: f32,
}

impl Batch {
    /// A batch with nothing but the prefix.
    pub fn new(prefix: &[u32]) -> Self {
        let segment = Segment { start: 0, len: prefix.len(), past: 0 };
        let segments = if prefix.is_empty() { Vec::new() } else { vec![segment] };
        Self { tokens: prefix.to_vec(), segments, targets: Vec::new(), prefix_len: prefix.len() }
    }

    /// Appends a document. `weights[i]` is the weight of predicting `tokens[i]` from what stands before it; that of
    /// the first token is not used.
    pub fn push(&mut self, tokens: &[u32], weights: &[f32]) {
        // Nothing is predicted from the last token, so it need not pass through the network.
        let Some((_, inputs)) = tokens.split_last() else { return };
        if inputs.is_empty() {
            return;
        }
        let start = self.tokens.len();
        let past = self.prefix_len;
        self.tokens.extend_from_slice(inputs);
        self.segments.push(Segment { start, len: inputs.len(), past });
        for (index, (&token, &weight)) in tokens.iter().zip(weights).enumerate().skip(1) {
            if weight > 0.0 {
                self.targets.push(Target { row: start + index - 1, token, weight });
            }
        }
    }

    /// Sum of the weights of all targets.
    pub fn weight(&self) -> f32 {
        self.targets.iter().map(|target| target.weight).sum()
    }
}
