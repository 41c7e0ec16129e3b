//! The whole network, forward and backward, over one packed batch on one thread.
//!
//! A Llama: embedding, blocks of (RMS norm, rotary grouped-query attention, residual; RMS norm, SwiGLU, residual),
//! RMS norm, and the embedding again as output. The gradient is written out by hand: for a fixed small network the
//! bookkeeping of automatic differentiation costs more than the arithmetic.

#![expect(
    clippy::indexing_slicing,
    reason = "numeric kernel; the buffers are sized from the same shape and batch"
)]

use super::attention;
use super::batch::Batch;
use super::kernels::{Dropout, Rope, rms_norm, rms_norm_backward, softmax_row, swiglu, swiglu_backward};
use super::matrix::{Matrix, MatrixMut};
use super::shape::{BlockRanges, Layout};

/// What one block keeps for the backward pass; `n` rows.
#[derive(Debug, Default)]
struct BlockCache {
    /// `[n, width]`: what came in.
    input: Vec<f32>,
    /// `[n]`: one over the root mean square of `input`.
    input_inverse: Vec<f32>,
    /// `[n, width]`.
    normed: Vec<f32>,
    /// `[n, qkv_width]`, queries and keys rotated.
    qkv: Vec<f32>,
    probabilities: Vec<f32>,
    /// `[n, width]`: what attention gathered.
    gathered: Vec<f32>,
    /// `[n, width]`: the residual stream between the halves.
    middle: Vec<f32>,
    middle_inverse: Vec<f32>,
    middle_normed: Vec<f32>,
    /// `[n, 2 ffn]`.
    gate_up: Vec<f32>,
    /// `[n, ffn]`.
    hidden: Vec<f32>,
}

/// Buffers of one pass, reused from batch to batch.
#[derive(Debug, Default)]
pub struct Workspace {
    blocks: Vec<BlockCache>,
    /// `[n, width]`: the residual stream after the last block.
    last: Vec<f32>,
    /// `[n, width]`: a branch before it joins the residual stream; in the backward pass, its gradient.
    branch: Vec<f32>,
    /// Rows that carry loss, `[t, width]`, before and after the last norm.
    chosen: Vec<f32>,
    chosen_inverse: Vec<f32>,
    chosen_normed: Vec<f32>,
    /// `[t, vocabulary]`: probabilities of the next token.
    probabilities: Vec<f32>,
    stream_gradient: Vec<f32>,
    wide_gradient: Vec<f32>,
    scratch: attention::Scratch,
}

/// The network without its parameters.
#[derive(Debug, Clone)]
pub struct Network {
    /// Sizes and places of the parameters.
    pub layout: Layout,
    rope: Rope,
}

/// What a batch cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    /// Sum over the targets of weight times cross-entropy, in nats.
    pub total: f64,
    /// Sum of the weights.
    pub weight: f64,
}

fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    &mut buffer[..]
}

fn zeroed(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.clear();
    buffer.resize(len, 0.0);
    &mut buffer[..]
}

fn add_into(sum: &mut [f32], left: &[f32], right: &[f32]) {
    for ((sum, left), right) in sum.iter_mut().zip(left).zip(right) {
        *sum = left + right;
    }
}

impl Network {
    /// A network of these sizes.
    pub fn new(layout: Layout) -> Self {
        let shape = layout.shape;
        Self { rope: Rope::new(shape.context, shape.head(), shape.rope_base), layout }
    }

    /// Probabilities of the next token at the batch's targets, `[targets, vocabulary]`.
    pub fn probabilities<'w>(
        &self,
        parameters: &[f32],
        batch: &Batch,
        space: &'w mut Workspace,
    ) -> &'w [f32] {
        self.forward(parameters, batch, Dropout { seed: 0, dropped_of_256: 0 }, space);
        &space.probabilities
    }

    /// Adds to `gradient` the gradient of `scale` times the batch's total loss.
    pub(crate) fn accumulate(
        &self,
        parameters: &[f32],
        batch: &Batch,
        dropout: Dropout,
        scale: f32,
        space: &mut Workspace,
        gradient: &mut [f32],
    ) -> Loss {
        self.forward(parameters, batch, dropout, space);
        let loss = self.loss(batch, space);
        self.backward(parameters, batch, dropout, scale, space, gradient);
        loss
    }

    fn loss(&self, batch: &Batch, space: &Workspace) -> Loss {
        let mut loss = Loss::default();
        for (row, target) in
            space.probabilities.chunks_exact(self.layout.shape.vocabulary).zip(&batch.targets)
        {
            let probability = f64::from(row[target.token as usize]).max(1e-30);
            loss.total -= f64::from(target.weight) * probability.ln();
            loss.weight += f64::from(target.weight);
        }
        loss
    }

    fn forward(&self, parameters: &[f32], batch: &Batch, dropout: Dropout, space: &mut Workspace) {
        let shape = &self.layout.shape;
        let (n, width) = (batch.tokens.len(), shape.width);
        space.blocks.resize_with(shape.layers, BlockCache::default);
        let embedding = &parameters[self.layout.embedding.clone()];
        let stream = sized(&mut space.last, n * width);
        for (row, &token) in stream.chunks_exact_mut(width).zip(&batch.tokens) {
            row.copy_from_slice(&embedding[token as usize * width..(token as usize + 1) * width]);
        }
        for (layer, (ranges, cache)) in self.layout.blocks.iter().zip(&mut space.blocks).enumerate() {
            std::mem::swap(&mut cache.input, &mut space.last);
            sized(&mut space.last, n * width);
            let sites = [2 * layer as u64, 2 * layer as u64 + 1];
            let half = (&mut space.branch, &mut space.scratch);
            self.block_forward(parameters, ranges, batch, (dropout, sites), cache, half, &mut space.last);
        }
        let t = batch.targets.len();
        let chosen = sized(&mut space.chosen, t * width);
        for (row, target) in chosen.chunks_exact_mut(width).zip(&batch.targets) {
            row.copy_from_slice(&space.last[target.row * width..(target.row + 1) * width]);
        }
        rms_norm(
            chosen,
            &parameters[self.layout.output_norm.clone()],
            shape.norm_epsilon,
            sized(&mut space.chosen_inverse, t),
            sized(&mut space.chosen_normed, t * width),
        );
        let vocabulary = shape.vocabulary;
        let logits = sized(&mut space.probabilities, t * vocabulary);
        MatrixMut::new(logits, t, vocabulary).set_product(
            Matrix::new(&space.chosen_normed, t, width),
            Matrix::new(embedding, vocabulary, width).transposed(),
        );
        for row in logits.chunks_exact_mut(vocabulary) {
            softmax_row(row, vocabulary, 1.0);
        }
    }

    fn block_forward(
        &self,
        parameters: &[f32],
        ranges: &BlockRanges,
        batch: &Batch,
        (dropout, sites): (Dropout, [u64; 2]),
        cache: &mut BlockCache,
        (branch, scratch): (&mut Vec<f32>, &mut attention::Scratch),
        out: &mut [f32],
    ) {
        let shape = &self.layout.shape;
        let (n, width, ffn) = (batch.tokens.len(), shape.width, shape.ffn);
        let qkv_width = shape.qkv_width();
        let weight = |range: &std::ops::Range<usize>| &parameters[range.clone()];

        let normed = sized(&mut cache.normed, n * width);
        let inverse = sized(&mut cache.input_inverse, n);
        rms_norm(&cache.input, weight(&ranges.attention_norm), shape.norm_epsilon, inverse, normed);
        let qkv = sized(&mut cache.qkv, n * qkv_width);
        MatrixMut::new(qkv, n, qkv_width).set_product(
            Matrix::new(normed, n, width),
            Matrix::new(weight(&ranges.qkv), qkv_width, width).transposed(),
        );
        self.rotate(batch, qkv, 1.0);
        let probabilities =
            sized(&mut cache.probabilities, attention::probabilities_len(shape, &batch.segments));
        let gathered = sized(&mut cache.gathered, n * width);
        attention::forward(shape, &batch.segments, qkv, probabilities, gathered, scratch);
        let branch = sized(branch, n * width);
        MatrixMut::new(branch, n, width).set_product(
            Matrix::new(gathered, n, width),
            Matrix::new(weight(&ranges.output), width, width).transposed(),
        );
        dropout.apply(branch, sites[0]);
        let middle = sized(&mut cache.middle, n * width);
        add_into(middle, &cache.input, branch);

        let normed = sized(&mut cache.middle_normed, n * width);
        let inverse = sized(&mut cache.middle_inverse, n);
        rms_norm(middle, weight(&ranges.ffn_norm), shape.norm_epsilon, inverse, normed);
        let gate_up = sized(&mut cache.gate_up, n * 2 * ffn);
        MatrixMut::new(gate_up, n, 2 * ffn).set_product(
            Matrix::new(normed, n, width),
            Matrix::new(weight(&ranges.gate_up), 2 * ffn, width).transposed(),
        );
        let hidden = sized(&mut cache.hidden, n * ffn);
        swiglu(gate_up, ffn, hidden);
        MatrixMut::new(branch, n, width).set_product(
            Matrix::new(hidden, n, ffn),
            Matrix::new(weight(&ranges.down), width, ffn).transposed(),
        );
        dropout.apply(branch, sites[1]);
        add_into(out, middle, branch);
    }

    /// Turns queries and keys by their positions; `direction` −1 turns gradients back.
    fn rotate(&self, batch: &Batch, qkv: &mut [f32], direction: f32) {
        let shape = &self.layout.shape;
        let (qkv_width, turned) = (shape.qkv_width(), shape.width + shape.kv_width());
        for segment in &batch.segments {
            for index in 0..segment.len {
                let row = (segment.start + index) * qkv_width;
                self.rope.rotate(&mut qkv[row..row + turned], segment.past + index, direction);
            }
        }
    }

    fn backward(
        &self,
        parameters: &[f32],
        batch: &Batch,
        dropout: Dropout,
        scale: f32,
        space: &mut Workspace,
        gradient: &mut [f32],
    ) {
        let shape = &self.layout.shape;
        let (n, t, width, vocabulary) =
            (batch.tokens.len(), batch.targets.len(), shape.width, shape.vocabulary);
        // Softmax with cross-entropy: probabilities minus the target's indicator.
        let logits_gradient = &mut space.probabilities;
        for (row, target) in logits_gradient.chunks_exact_mut(vocabulary).zip(&batch.targets) {
            row[target.token as usize] -= 1.0;
            let weight = target.weight * scale;
            for value in row {
                *value *= weight;
            }
        }
        let embedding = &parameters[self.layout.embedding.clone()];
        MatrixMut::new(&mut gradient[self.layout.embedding.clone()], vocabulary, width).add_product(
            Matrix::new(logits_gradient, t, vocabulary).transposed(),
            Matrix::new(&space.chosen_normed, t, width),
        );
        let chosen_gradient = sized(&mut space.wide_gradient, t * width);
        MatrixMut::new(chosen_gradient, t, width).set_product(
            Matrix::new(logits_gradient, t, vocabulary),
            Matrix::new(embedding, vocabulary, width),
        );
        let before_norm = zeroed(&mut space.branch, t * width);
        rms_norm_backward(
            &space.chosen,
            &parameters[self.layout.output_norm.clone()],
            &space.chosen_inverse,
            chosen_gradient,
            before_norm,
            &mut gradient[self.layout.output_norm.clone()],
        );
        let stream_gradient = zeroed(&mut space.stream_gradient, n * width);
        for (row, target) in before_norm.chunks_exact(width).zip(&batch.targets) {
            let into = &mut stream_gradient[target.row * width..(target.row + 1) * width];
            into.iter_mut().zip(row).for_each(|(into, value)| *into += value);
        }
        for layer in (0..shape.layers).rev() {
            let sites = [2 * layer as u64, 2 * layer as u64 + 1];
            self.block_backward(parameters, layer, batch, (dropout, sites), space, gradient);
        }
        let embedding_gradient = &mut gradient[self.layout.embedding.clone()];
        for (row, &token) in space.stream_gradient.chunks_exact(width).zip(&batch.tokens) {
            let into = &mut embedding_gradient[token as usize * width..(token as usize + 1) * width];
            into.iter_mut().zip(row).for_each(|(into, value)| *into += value);
        }
    }

    fn block_backward(
        &self,
        parameters: &[f32],
        layer: usize,
        batch: &Batch,
        (dropout, sites): (Dropout, [u64; 2]),
        space: &mut Workspace,
        gradient: &mut [f32],
    ) {
        let shape = &self.layout.shape;
        let (n, width, ffn, qkv_width) = (batch.tokens.len(), shape.width, shape.ffn, shape.qkv_width());
        let ranges = &self.layout.blocks[layer];
        let cache = &mut space.blocks[layer];
        let weight = |range: &std::ops::Range<usize>| &parameters[range.clone()];
        let stream_gradient = &mut space.stream_gradient[..];

        // The feed-forward half.
        space.branch.clear();
        space.branch.extend_from_slice(stream_gradient);
        dropout.apply(&mut space.branch, sites[1]);
        let branch = Matrix::new(&space.branch, n, width);
        MatrixMut::new(&mut gradient[ranges.down.clone()], width, ffn)
            .add_product(branch.transposed(), Matrix::new(&cache.hidden, n, ffn));
        let hidden_gradient = sized(&mut cache.hidden, n * ffn);
        MatrixMut::new(hidden_gradient, n, ffn)
            .set_product(branch, Matrix::new(weight(&ranges.down), width, ffn));
        swiglu_backward(&mut cache.gate_up, ffn, hidden_gradient);
        let gate_up_gradient = Matrix::new(&cache.gate_up, n, 2 * ffn);
        MatrixMut::new(&mut gradient[ranges.gate_up.clone()], 2 * ffn, width)
            .add_product(gate_up_gradient.transposed(), Matrix::new(&cache.middle_normed, n, width));
        let normed_gradient = sized(&mut space.branch, n * width);
        MatrixMut::new(normed_gradient, n, width)
            .set_product(gate_up_gradient, Matrix::new(weight(&ranges.gate_up), 2 * ffn, width));
        let gain_gradient = &mut gradient[ranges.ffn_norm.clone()];
        let gain = weight(&ranges.ffn_norm);
        rms_norm_backward(
            &cache.middle,
            gain,
            &cache.middle_inverse,
            normed_gradient,
            stream_gradient,
            gain_gradient,
        );

        // The attention half.
        space.branch.clear();
        space.branch.extend_from_slice(stream_gradient);
        dropout.apply(&mut space.branch, sites[0]);
        let branch = Matrix::new(&space.branch, n, width);
        MatrixMut::new(&mut gradient[ranges.output.clone()], width, width)
            .add_product(branch.transposed(), Matrix::new(&cache.gathered, n, width));
        let gathered_gradient = sized(&mut cache.gathered, n * width);
        MatrixMut::new(gathered_gradient, n, width)
            .set_product(branch, Matrix::new(weight(&ranges.output), width, width));
        let qkv_gradient = zeroed(&mut space.wide_gradient, n * qkv_width);
        let (segments, probabilities) = (&batch.segments, &cache.probabilities);
        let scratch = &mut space.scratch;
        attention::backward(
            shape,
            segments,
            &cache.qkv,
            probabilities,
            gathered_gradient,
            qkv_gradient,
            scratch,
        );
        self.rotate(batch, qkv_gradient, -1.0);
        let qkv_gradient = Matrix::new(qkv_gradient, n, qkv_width);
        MatrixMut::new(&mut gradient[ranges.qkv.clone()], qkv_width, width)
            .add_product(qkv_gradient.transposed(), Matrix::new(&cache.normed, n, width));
        let normed_gradient = sized(&mut space.branch, n * width);
        MatrixMut::new(normed_gradient, n, width)
            .set_product(qkv_gradient, Matrix::new(weight(&ranges.qkv), qkv_width, width));
        let gain_gradient = &mut gradient[ranges.attention_norm.clone()];
        let gain = weight(&ranges.attention_norm);
        rms_norm_backward(
            &cache.input,
            gain,
            &cache.input_inverse,
            normed_gradient,
            stream_gradient,
            gain_gradient,
        );
    }
}
