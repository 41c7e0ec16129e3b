//! Causal attention of every segment to itself and to the prefix, forward and backward.
//!
//! Shapes: a row of `qkv` holds query `[heads, head]`, key and value `[kv_heads, head]` each; the probabilities of a
//! segment of `len` tokens with `past` tokens before it are `[heads, len, past + len]`.

#![expect(
    clippy::indexing_slicing,
    reason = "numeric kernel; the buffers are sized from the same shape and batch"
)]

use super::batch::Segment;
use super::kernels::{softmax_row, softmax_row_backward};
use super::matrix::{Matrix, MatrixMut};
use super::shape::Shape;

/// Buffers that every segment reuses.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    keys_gradient: Vec<f32>,
    values_gradient: Vec<f32>,
    scores_gradient: Vec<f32>,
}

/// Elements that the probabilities of all segments take.
pub(crate) fn probabilities_len(shape: &Shape, segments: &[Segment]) -> usize {
    segments.iter().map(|segment| shape.heads * segment.len * (segment.past + segment.len)).sum()
}

/// Copies keys and values of the past and of the segment next to each other: `[past + len, kv_width]`.
fn gather(shape: &Shape, segment: &Segment, qkv: &[f32], scratch: &mut Scratch) {
    let (row_width, kv_width) = (shape.qkv_width(), shape.kv_width());
    scratch.keys.clear();
    scratch.values.clear();
    for row in (0..segment.past).chain(segment.start..segment.start + segment.len) {
        let key = row * row_width + shape.width;
        scratch.keys.extend_from_slice(&qkv[key..key + kv_width]);
        scratch.values.extend_from_slice(&qkv[key + kv_width..key + 2 * kv_width]);
    }
}

/// Writes what every token gathers into `out` (`[rows, width]`) and keeps the probabilities.
pub(crate) fn forward(
    shape: &Shape,
    segments: &[Segment],
    qkv: &[f32],
    probabilities: &mut [f32],
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let (head, row_width, kv_width) = (shape.head(), shape.qkv_width(), shape.kv_width());
    let scale = 1.0 / (head as f32).sqrt();
    let mut rest = probabilities;
    for segment in segments {
        gather(shape, segment, qkv, scratch);
        let (len, seen) = (segment.len, segment.past + segment.len);
        for index in 0..shape.heads {
            let kv_offset = index * shape.kv_heads / shape.heads * head;
            let query = &qkv[segment.start * row_width + index * head..];
            let (scores, after) = rest.split_at_mut(len * seen);
            rest = after;
            MatrixMut::new(scores, len, seen).set_product(
                Matrix::strided(query, len, head, row_width),
                Matrix::strided(&scratch.keys[kv_offset..], seen, head, kv_width).transposed(),
            );
            for (token, row) in scores.chunks_exact_mut(seen).enumerate() {
                softmax_row(row, segment.past + token + 1, scale);
            }
            let out = &mut out[segment.start * shape.width + index * head..];
            MatrixMut::strided(out, len, head, shape.width).set_product(
                Matrix::new(scores, len, seen),
                Matrix::strided(&scratch.values[kv_offset..], seen, head, kv_width),
            );
        }
    }
}

/// Adds the gradients of queries, keys and values to `qkv_gradient`, which must hold zeros or earlier gradients.
pub(crate) fn backward(
    shape: &Shape,
    segments: &[Segment],
    qkv: &[f32],
    probabilities: &[f32],
    out_gradient: &[f32],
    qkv_gradient: &mut [f32],
    scratch: &mut Scratch,
) {
    let (head, row_width, kv_width) = (shape.head(), shape.qkv_width(), shape.kv_width());
    let scale = 1.0 / (head as f32).sqrt();
    let mut rest = probabilities;
    for segment in segments {
        gather(shape, segment, qkv, scratch);
        let (len, seen) = (segment.len, segment.past + segment.len);
        reset(&mut scratch.keys_gradient, seen * kv_width);
        reset(&mut scratch.values_gradient, seen * kv_width);
        scratch.scores_gradient.resize(len * seen, 0.0);
        for index in 0..shape.heads {
            let kv_offset = index * shape.kv_heads / shape.heads * head;
            let (weights, after) = rest.split_at(len * seen);
            rest = after;
            let out_gradient = &out_gradient[segment.start * shape.width + index * head..];
            let out_gradient = Matrix::strided(out_gradient, len, head, shape.width);
            MatrixMut::strided(&mut scratch.values_gradient[kv_offset..], seen, head, kv_width)
                .add_product(Matrix::new(weights, len, seen).transposed(), out_gradient);
            let scores = &mut scratch.scores_gradient[..len * seen];
            MatrixMut::new(scores, len, seen).set_product(
                out_gradient,
                Matrix::strided(&scratch.values[kv_offset..], seen, head, kv_width).transposed(),
            );
            let rows = scores.chunks_exact_mut(seen).zip(weights.chunks_exact(seen));
            for (token, (row, weights)) in rows.enumerate() {
                softmax_row_backward(weights, row, segment.past + token + 1, scale);
            }
            let query_offset = segment.start * row_width + index * head;
            MatrixMut::strided(&mut qkv_gradient[query_offset..], len, head, row_width).add_product(
                Matrix::new(scores, len, seen),
                Matrix::strided(&scratch.keys[kv_offset..], seen, head, kv_width),
            );
            MatrixMut::strided(&mut scratch.keys_gradient[kv_offset..], seen, head, kv_width).add_product(
                Matrix::new(scores, len, seen).transposed(),
                Matrix::strided(&qkv[query_offset..], len, head, row_width),
            );
        }
        scatter(shape, segment, qkv_gradient, scratch);
    }
}

/// Adds the gradients of the gathered keys and values to the rows that they came from.
fn scatter(shape: &Shape, segment: &Segment, qkv_gradient: &mut [f32], scratch: &Scratch) {
    let (row_width, kv_width) = (shape.qkv_width(), shape.kv_width());
    let gradients =
        scratch.keys_gradient.chunks_exact(kv_width).zip(scratch.values_gradient.chunks_exact(kv_width));
    let rows = (0..segment.past).chain(segment.start..segment.start + segment.len);
    for (row, (key_gradient, value_gradient)) in rows.zip(gradients) {
        let key = row * row_width + shape.width;
        add(&mut qkv_gradient[key..key + kv_width], key_gradient);
        add(&mut qkv_gradient[key + kv_width..key + 2 * kv_width], value_gradient);
    }
}

fn reset(buffer: &mut Vec<f32>, len: usize) {
    buffer.clear();
    buffer.resize(len, 0.0);
}

fn add(into: &mut [f32], from: &[f32]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into += from;
    }
}
