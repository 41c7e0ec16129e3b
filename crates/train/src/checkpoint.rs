//! A training run on disk: parameters, moments and place in the run, in one safetensors file.
//!
//! A checkpoint is written beside the old one, synced and renamed over it, so that a kill at any moment leaves a
//! whole file.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use candle_core::{Device, Tensor, Var};
use candle_nn::VarMap;

use crate::model::Layout;
use crate::optimizer::Moments;

/// How far a run is. With the run's seed it determines all that follows: nothing else is random.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Place {
    /// Steps done.
    pub step: u64,
    /// Pass over the traces.
    pub epoch: u64,
    /// Batches of this pass that are done.
    pub batch: u64,
    /// Time spent training, in seconds.
    pub trained_s: f64,
}

/// All that a run needs to go on.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The flat parameter vector.
    pub parameters: Vec<f32>,
    /// The optimiser's moments.
    pub moments: Moments,
    /// How far the run is.
    pub place: Place,
}

const KINDS: [&str; 3] = ["parameter", "first_moment", "second_moment"];
const PLACE: &str = "place";

/// The checkpoint's path in the directory of a run.
pub fn path(run: &Path) -> PathBuf {
    run.join("checkpoint.safetensors")
}

fn variables(
    layout: &Layout,
    mut value: impl FnMut(&str, usize) -> anyhow::Result<Tensor>,
) -> anyhow::Result<VarMap> {
    let map = VarMap::new();
    {
        let mut data = map.data().lock().map_err(|_| anyhow::anyhow!("a poisoned map"))?;
        for (index, parameter) in layout.parameters.iter().enumerate() {
            for kind in KINDS {
                let tensor = value(kind, index)?;
                data.insert(format!("{kind}.{}", parameter.name), Var::from_tensor(&tensor)?);
            }
        }
        data.insert(PLACE.to_owned(), Var::from_tensor(&value(PLACE, 0)?)?);
    }
    Ok(map)
}

impl Checkpoint {
    /// Before the first step.
    pub fn initial(layout: &Layout, seed: u64) -> Self {
        Self { parameters: layout.initial(seed), moments: Moments::new(layout.len), place: Place::default() }
    }

    /// Writes it into the directory of a run.
    pub fn save(&self, layout: &Layout, run: &Path) -> anyhow::Result<()> {
        let place = self.place;
        let numbers = [place.step as f64, place.epoch as f64, place.batch as f64, place.trained_s];
        let map = variables(layout, |kind, index| {
            let source = match kind {
                "parameter" => &self.parameters,
                "first_moment" => &self.moments.first,
                "second_moment" => &self.moments.second,
                _ => return Ok(Tensor::new(&numbers, &Device::Cpu)?),
            };
            let parameter = layout.parameters.get(index).context("a parameter")?;
            let values = source.get(parameter.range.clone()).context("a checkpoint of another shape")?;
            Ok(Tensor::from_slice(values, (parameter.rows, parameter.columns), &Device::Cpu)?)
        })?;
        let (path, partial) = (path(run), run.join("checkpoint.partial"));
        map.save(&partial).context("write the checkpoint")?;
        File::open(&partial)?.sync_all()?;
        std::fs::rename(&partial, &path).context("rename the checkpoint")?;
        File::open(run)?.sync_all().context("sync the directory")
    }

    /// Reads the checkpoint of a run; `None` if it has none yet.
    pub fn load(layout: &Layout, run: &Path) -> anyhow::Result<Option<Self>> {
        let path = path(run);
        if !path.exists() {
            return Ok(None);
        }
        let mut map = variables(layout, |kind, index| {
            if kind == PLACE {
                return Ok(Tensor::zeros(4, candle_core::DType::F64, &Device::Cpu)?);
            }
            let parameter = layout.parameters.get(index).context("a parameter")?;
            Ok(Tensor::zeros((parameter.rows, parameter.columns), candle_core::DType::F32, &Device::Cpu)?)
        })?;
        map.load(&path).with_context(|| format!("read {}", path.display()))?;
        let data = map.data().lock().map_err(|_| anyhow::anyhow!("a poisoned map"))?;
        let collect = |kind: &str| -> anyhow::Result<Vec<f32>> {
            let mut values = Vec::with_capacity(layout.len);
            for parameter in &layout.parameters {
                let tensor = data.get(&format!("{kind}.{}", parameter.name)).context("a missing tensor")?;
                values.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
            }
            Ok(values)
        };
        let numbers = data.get(PLACE).context("no place")?.to_vec1::<f64>()?;
        let [step, epoch, batch, trained_s] =
            numbers.try_into().map_err(|_| anyhow::anyhow!("a bad place"))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts, stored as f64")]
        let place = Place { step: step as u64, epoch: epoch as u64, batch: batch as u64, trained_s };
        let moments = Moments { first: collect("first_moment")?, second: collect("second_moment")? };
        Ok(Some(Self { parameters: collect("parameter")?, moments, place }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Shape;

    #[test]
    fn a_run_goes_on_where_it_was_saved() {
        let shape = Shape { vocabulary: 32, width: 16, layers: 1, ffn: 16, ..Shape::NANO };
        let layout = Layout::new(shape);
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Checkpoint::load(&layout, directory.path()).unwrap(), None);
        let mut checkpoint = Checkpoint::initial(&layout, 3);
        checkpoint.moments.first[7] = 0.25;
        checkpoint.place = Place { step: 12, epoch: 3, batch: 4, trained_s: 5.5 };
        checkpoint.save(&layout, directory.path()).unwrap();
        assert_eq!(Checkpoint::load(&layout, directory.path()).unwrap(), Some(checkpoint));
    }
}
