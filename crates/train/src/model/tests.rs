use candle_core::{D, DType, Device, Tensor, Var};

use super::kernels::Dropout;
use super::*;

const SMALL: Shape = Shape {
    vocabulary: 40,
    width: 16,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    ffn: 24,
    context: 64,
    rope_base: 10_000.0,
    norm_epsilon: 1e-5,
};
const NO_DROPOUT: Dropout = Dropout { seed: 0, dropped_of_256: 0 };

fn tokens(seed: u32, len: usize) -> Vec<u32> {
    (0u32..).take(len).map(|index| (seed + index * index * 7 + index * 3) % 40).collect()
}

fn batch() -> Batch {
    let mut batch = Batch::new(&tokens(3, 5));
    for (seed, len) in [(1, 9), (8, 6), (21, 12)] {
        let weights: Vec<f32> = (0..len).map(|index| [0.0, 1.0, 0.5][index % 3]).collect();
        batch.push(&tokens(seed, len), &weights);
    }
    batch
}

/// Larger weights than at the start of training, so that every path carries a visible gradient.
fn parameters(layout: &Layout) -> Vec<f32> {
    layout.initial(5).into_iter().map(|value| if value > 0.99 { 1.1 } else { value * 8.0 }).collect()
}

#[test]
fn the_gradient_agrees_with_finite_differences() {
    let layout = Layout::new(SMALL);
    let network = Network::new(layout.clone());
    let mut space = Workspace::default();
    let (batch, mut parameters) = (batch(), parameters(&layout));
    let dropout = Dropout { seed: 11, dropped_of_256: 40 };
    let mut gradient = vec![0.0; layout.len];
    network.accumulate(&parameters, &batch, dropout, 0.5, &mut space, &mut gradient);
    let mut unused = vec![0.0; layout.len];
    for parameter in &layout.parameters {
        for offset in [0, parameter.range.len() / 3, parameter.range.len() - 1] {
            let index = parameter.range.start + offset;
            let value = parameters[index];
            let step = 4e-3;
            let mut side = |delta: f32| {
                parameters[index] = value + delta;
                network.accumulate(&parameters, &batch, dropout, 0.5, &mut space, &mut unused).total * 0.5
            };
            let slope = (side(step) - side(-step)) / f64::from(2.0 * step);
            parameters[index] = value;
            let difference = (slope - f64::from(gradient[index])).abs();
            assert!(
                difference < 2e-3 + 0.02 * slope.abs(),
                "{} at {offset}: {slope} by differences, {} by hand",
                parameter.name,
                gradient[index]
            );
        }
    }
}

#[test]
fn a_shared_prefix_gives_what_separate_copies_give() {
    let layout = Layout::new(SMALL);
    let network = Network::new(layout.clone());
    let (mut space, parameters) = (Workspace::default(), parameters(&layout));
    let prefix = tokens(3, 5);
    let shared = network.probabilities(&parameters, &batch(), &mut space).to_vec();
    let mut separate = Vec::new();
    for (seed, len) in [(1, 9), (8, 6), (21, 12)] {
        let mut whole = prefix.clone();
        whole.extend(tokens(seed, len));
        let weights: Vec<f32> = (0..whole.len())
            .map(
                |index| if index <= prefix.len() { 0.0 } else { [0.0, 1.0, 0.5][(index - prefix.len()) % 3] },
            )
            .collect();
        let mut batch = Batch::new(&[]);
        batch.push(&whole, &weights);
        separate.extend_from_slice(network.probabilities(&parameters, &batch, &mut space));
    }
    assert_eq!(shared.len(), separate.len());
    for (shared, separate) in shared.iter().zip(&separate) {
        assert!((shared - separate).abs() < 1e-5);
    }
}

/// The same network in candle's terms, with its automatic differentiation.
fn reference(layout: &Layout, variables: &[Var], batch: &Batch) -> candle_core::Result<Tensor> {
    let (shape, device) = (layout.shape, Device::Cpu);
    let named = |name: &str| {
        let index = layout.parameters.iter().position(|parameter| parameter.name == name).unwrap();
        variables[index].as_tensor()
    };
    let n = batch.tokens.len();
    let embedding = named("token_embd.weight");
    let mut stream = embedding.index_select(&Tensor::new(batch.tokens.as_slice(), &device)?, 0)?;
    let (mut mask, mut positions) = (vec![f32::NEG_INFINITY; n * n], Vec::new());
    for segment in &batch.segments {
        for token in 0..segment.len {
            positions.push((segment.past + token) as f32);
            let own = segment.start..=segment.start + token;
            (0..segment.past).chain(own).for_each(|seen| mask[(segment.start + token) * n + seen] = 0.0);
        }
    }
    let mask = Tensor::from_vec(mask, (1, 1, n, n), &device)?;
    let head = shape.head();
    let frequencies: Vec<f32> =
        (0..head / 2).map(|pair| shape.rope_base.powf(-2.0 * pair as f32 / head as f32)).collect();
    let angles = Tensor::from_vec(positions, (n, 1), &device)?.matmul(&Tensor::from_vec(
        frequencies,
        (1, head / 2),
        &device,
    )?)?;
    let rope = |x: Tensor, heads: usize| -> candle_core::Result<Tensor> {
        let x = x.reshape((n, heads, head))?.transpose(0, 1)?.contiguous()?.unsqueeze(0)?;
        candle_nn::rotary_emb::rope_i_slow(&x, &angles.cos()?, &angles.sin()?)
    };
    let norm = |x: &Tensor, name: &str| {
        candle_nn::RmsNorm::new(named(name).flatten_all()?, f64::from(shape.norm_epsilon)).forward_diff(x)
    };
    let repeat = |x: Tensor| -> candle_core::Result<Tensor> {
        let groups = shape.heads / shape.kv_heads;
        x.unsqueeze(2)?.expand((1, shape.kv_heads, groups, n, head))?.reshape((1, shape.heads, n, head))
    };
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let linear = |x: &Tensor, part: &str| x.matmul(&named(&name(part)).t()?);
        let x = norm(&stream, &name("attn_norm"))?;
        let query = rope(linear(&x, "attn_q")?, shape.heads)?;
        let key = repeat(rope(linear(&x, "attn_k")?, shape.kv_heads)?)?;
        let value = linear(&x, "attn_v")?.reshape((n, shape.kv_heads, head))?.transpose(0, 1)?;
        let value = repeat(value.contiguous()?.unsqueeze(0)?)?;
        let scores = (query.matmul(&key.t()?)? / (head as f64).sqrt())?.broadcast_add(&mask)?;
        let gathered = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&value)?;
        let gathered = gathered.squeeze(0)?.transpose(0, 1)?.reshape((n, shape.width))?;
        stream = (stream + linear(&gathered, "attn_output")?)?;
        let x = norm(&stream, &name("ffn_norm"))?;
        let hidden = (linear(&x, "ffn_gate")?.silu()? * linear(&x, "ffn_up")?)?;
        stream = (stream + linear(&hidden, "ffn_down")?)?;
    }
    let rows: Vec<u32> = batch.targets.iter().map(|target| u32::try_from(target.row).unwrap()).collect();
    let chosen = stream.index_select(&Tensor::new(rows, &device)?, 0)?;
    let logits = norm(&chosen, "output_norm.weight")?.matmul(&embedding.t()?)?;
    let logarithms = candle_nn::ops::log_softmax(&logits, 1)?;
    let wanted: Vec<u32> = batch.targets.iter().map(|target| target.token).collect();
    let wanted = Tensor::new(wanted, &device)?.unsqueeze(1)?;
    let weights: Vec<f32> = batch.targets.iter().map(|target| target.weight).collect();
    (logarithms.gather(&wanted, 1)?.squeeze(1)? * Tensor::new(weights, &device)?)?.sum_all()?.neg()
}

#[test]
fn loss_and_gradient_agree_with_candles_automatic_differentiation() -> candle_core::Result<()> {
    let layout = Layout::new(SMALL);
    let network = Network::new(layout.clone());
    let (batch, parameters) = (batch(), parameters(&layout));
    let mut gradient = vec![0.0; layout.len];
    let loss =
        network.accumulate(&parameters, &batch, NO_DROPOUT, 1.0, &mut Workspace::default(), &mut gradient);
    let variables = layout
        .parameters
        .iter()
        .map(|parameter| {
            let values = Tensor::new(&parameters[parameter.range.clone()], &Device::Cpu)?;
            Var::from_tensor(&values.reshape((parameter.rows, parameter.columns))?.to_dtype(DType::F32)?)
        })
        .collect::<candle_core::Result<Vec<_>>>()?;
    let expected = reference(&layout, &variables, &batch)?;
    assert!((f64::from(expected.to_scalar::<f32>()?) - loss.total).abs() < 1e-3 * loss.total);
    let expected = expected.backward()?;
    for (parameter, variable) in layout.parameters.iter().zip(&variables) {
        let expected = expected.get(variable).unwrap().flatten_all()?.to_vec1::<f32>()?;
        let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        for (expected, found) in expected.iter().zip(&gradient[parameter.range.clone()]) {
            assert!(
                (expected - found).abs() < 1e-3 * largest + 1e-4,
                "{}: {expected} {found}",
                parameter.name
            );
        }
    }
    Ok(())
}
