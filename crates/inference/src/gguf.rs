//! Opening a GGUF file without trusting it: every count, offset and shape is checked before anything is allocated
//! from it.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use crate::error::InferenceError;

/// The most dimensions' product that a tensor may have; far above any model that fits in memory.
const TENSOR_ELEMENTS_MAX: usize = 1 << 40;

/// Where a model file comes from.
#[derive(Clone)]
pub enum ModelSource {
    /// A file on disk.
    Path(PathBuf),
    /// A whole file in memory, such as one that is built into the binary.
    Bytes {
        /// What to call it in messages and, without `general.name`, in metrics.
        name: String,
        /// The file's content.
        bytes: Arc<[u8]>,
    },
}

impl ModelSource {
    /// What to call the file in messages.
    pub fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Bytes { name, .. } => name.clone(),
        }
    }

    /// The file's stem: its name without folder and suffix.
    pub(crate) fn stem(&self) -> String {
        let path = match self {
            Self::Path(path) => path.clone(),
            Self::Bytes { name, .. } => PathBuf::from(name),
        };
        path.file_stem().map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned())
    }
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Bytes { name, bytes } => {
                f.debug_struct("Bytes").field("name", name).field("length", &bytes.len()).finish()
            }
        }
    }
}

trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// An open GGUF file whose header has been checked against the file's length.
pub struct GgufFile {
    name: String,
    stem: String,
    content: Content,
    reader: Box<dyn ReadSeek>,
}

impl fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GgufFile")
            .field("name", &self.name)
            .field("tensors", &self.content.tensor_infos.len())
            .finish_non_exhaustive()
    }
}

impl GgufFile {
    /// Opens `source`, reads its header and checks that every tensor lies within the file.
    ///
    /// Fails with [`InferenceError::Read`] when the file cannot be read and with [`InferenceError::Damaged`] when it
    /// is cut short, is no GGUF file, or contradicts itself.
    pub fn open(source: &ModelSource) -> Result<Self, InferenceError> {
        let name = source.name();
        let read_error = |source| InferenceError::Read { file: name.clone(), source };
        let mut reader: Box<dyn ReadSeek> = match source {
            ModelSource::Path(path) => {
                Box::new(BufReader::new(std::fs::File::open(path).map_err(read_error)?))
            }
            ModelSource::Bytes { bytes, .. } => Box::new(Cursor::new(Arc::clone(bytes))),
        };
        let length = reader.seek(SeekFrom::End(0)).map_err(read_error)?;
        reader.seek(SeekFrom::Start(0)).map_err(read_error)?;
        let damaged = |reason: String| InferenceError::Damaged { file: name.clone(), reason };

        // candle's reader checks counts and lengths, but divides by `general.alignment` as it stands in the file.
        let content = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Content::read(&mut reader)))
            .map_err(|_| damaged("its header cannot be interpreted".to_owned()))?
            .map_err(|error| damaged(first_line(&error.to_string())))?;

        for (tensor, info) in &content.tensor_infos {
            let bytes = tensor_bytes(info.shape.dims(), info.ggml_dtype).ok_or_else(|| {
                damaged(format!("tensor {tensor} has the impossible shape {:?}", info.shape))
            })?;
            let end =
                content.tensor_data_offset.checked_add(info.offset).and_then(|at| at.checked_add(bytes));
            if end.is_none_or(|end| end > length) {
                return Err(damaged(format!(
                    "tensor {tensor} needs {bytes} bytes at offset {}, the file has {length} bytes in all",
                    content.tensor_data_offset.saturating_add(info.offset),
                )));
            }
        }
        Ok(Self { name, stem: source.stem(), content, reader })
    }

    /// What the file is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `general.architecture`, or `unknown`.
    pub fn architecture(&self) -> Result<String, InferenceError> {
        Ok(self.text("general.architecture")?.unwrap_or_else(|| "unknown".to_owned()))
    }

    /// How many weights there are, over all tensors.
    pub fn parameters(&self) -> u64 {
        self.content.tensor_infos.values().map(|info| info.shape.elem_count() as u64).sum()
    }

    /// How many tensors there are of each storage type, by the type's name.
    pub fn quantization(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for info in self.content.tensor_infos.values() {
            *counts.entry(format!("{:?}", info.ggml_dtype)).or_default() += 1;
        }
        counts
    }

    pub(crate) fn stem(&self) -> &str {
        &self.stem
    }

    /// An error that says that this file is damaged.
    pub(crate) fn damaged(&self, reason: impl Into<String>) -> InferenceError {
        InferenceError::Damaged { file: self.name.clone(), reason: reason.into() }
    }

    /// An error that says that this file is sound but cannot be run.
    pub(crate) fn unsupported(&self, reason: impl Into<String>, hint: &'static str) -> InferenceError {
        InferenceError::Unsupported { file: self.name.clone(), reason: reason.into(), hint }
    }

    /// The text under `key`, if there is one.
    pub(crate) fn text(&self, key: &str) -> Result<Option<String>, InferenceError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong_type(key, "a text", other)),
        }
    }

    /// The natural number under `key`, whatever integer type it is stored as.
    pub(crate) fn number(&self, key: &str) -> Result<Option<usize>, InferenceError> {
        let Some(value) = self.content.metadata.get(key) else { return Ok(None) };
        let number = match value {
            Value::U8(n) => Some(u64::from(*n)),
            Value::U16(n) => Some(u64::from(*n)),
            Value::U32(n) => Some(u64::from(*n)),
            Value::U64(n) => Some(*n),
            Value::I8(n) => u64::try_from(*n).ok(),
            Value::I16(n) => u64::try_from(*n).ok(),
            Value::I32(n) => u64::try_from(*n).ok(),
            Value::I64(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        match number.and_then(|number| usize::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong_type(key, "a natural number", value)),
        }
    }

    /// The finite number under `key`.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f32>, InferenceError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::F32(number)) if number.is_finite() => Ok(Some(*number)),
            Some(other) => Err(self.wrong_type(key, "a finite number", other)),
        }
    }

    /// The flag under `key`.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, InferenceError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong_type(key, "a flag", other)),
        }
    }

    /// Moves the list of texts under `key` out of the header.
    pub(crate) fn take_texts(&mut self, key: &str) -> Result<Option<Vec<String>>, InferenceError> {
        let values = match self.content.metadata.remove(key) {
            None => return Ok(None),
            Some(Value::Array(values)) => values,
            Some(other) => return Err(self.wrong_type(key, "a list of texts", &other)),
        };
        let count = values.len();
        let texts: Vec<String> = values
            .into_iter()
            .filter_map(|value| if let Value::String(text) = value { Some(text) } else { None })
            .collect();
        if texts.len() == count {
            Ok(Some(texts))
        } else {
            Err(self.damaged(format!("{key} holds something else than texts")))
        }
    }

    /// The list of small integers under `key`.
    pub(crate) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, InferenceError> {
        let values = match self.content.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Array(values)) => values,
            Some(other) => return Err(self.wrong_type(key, "a list of integers", other)),
        };
        values
            .iter()
            .map(|value| match value {
                Value::I32(n) => Ok(i64::from(*n)),
                Value::U32(n) => Ok(i64::from(*n)),
                Value::U8(n) => Ok(i64::from(*n)),
                Value::I8(n) => Ok(i64::from(*n)),
                other => Err(self.wrong_type(key, "a list of integers", other)),
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// The names of all tensors, in no order.
    pub(crate) fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.content.tensor_infos.keys().map(String::as_str)
    }

    /// The shape of tensor `name`, rows first, if there is such a tensor.
    pub(crate) fn tensor_shape(&self, name: &str) -> Option<&[usize]> {
        self.content.tensor_infos.get(name).map(|info| info.shape.dims())
    }

    /// All tensors of a size that can be: their names, shapes (rows first) and types, in no order.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &[usize], GgmlDType)> {
        let infos = self.content.tensor_infos.iter();
        let can_be = |info: &TensorInfo| tensor_bytes(info.shape.dims(), info.ggml_dtype).is_some();
        infos
            .filter(move |(_, info)| can_be(info))
            .map(|(name, info)| (name.as_str(), info.shape.dims(), info.ggml_dtype))
    }

    /// Bytes of all tensors as they are stored.
    pub fn tensors_bytes(&self) -> u64 {
        let infos = self.content.tensor_infos.values();
        infos.filter_map(|info| tensor_bytes(info.shape.dims(), info.ggml_dtype)).sum()
    }

    /// Reads tensor `name` into memory as it is stored.
    pub(crate) fn tensor(&mut self, name: &str) -> Result<QTensor, InferenceError> {
        if !self.content.tensor_infos.contains_key(name) {
            return Err(self.damaged(format!("tensor {name} is missing")));
        }
        self.content
            .tensor(&mut self.reader, name, &Device::Cpu)
            .map_err(|error| self.damaged(format!("tensor {name}: {}", first_line(&error.to_string()))))
    }

    fn wrong_type(&self, key: &str, wanted: &str, found: &Value) -> InferenceError {
        self.damaged(format!("{key} should be {wanted} and is {:?}", found.value_type()))
    }
}

/// Bytes of a tensor, or `None` where its shape makes no sense for its type.
fn tensor_bytes(dims: &[usize], dtype: GgmlDType) -> Option<u64> {
    let elements = dims
        .iter()
        .try_fold(1usize, |product, dim| product.checked_mul(*dim))
        .filter(|elements| (1..=TENSOR_ELEMENTS_MAX).contains(elements))?;
    let row = dims.last()?;
    row.is_multiple_of(dtype.block_size()).then(|| (elements / dtype.block_size() * dtype.type_size()) as u64)
}

/// candle appends a backtrace to its messages where one is enabled.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
