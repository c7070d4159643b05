// From a camera frame to what the model takes, and from what it gives to scores.
//
// Nothing here needs Android, so that it can be tested on any JVM.

package @PACKAGE@

import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sign
import kotlin.math.truncate

/** How a tensor's numbers are stored. */
enum class ElementType { FLOAT32, INT8, UINT8 }

/** A tensor's type; real = scale * (stored - zeroPoint) where it is an integer one. */
class TensorSpec(val type: ElementType, val scale: Float, val zeroPoint: Int) {
    val lowest: Int get() = if (type == ElementType.UINT8) 0 else -128
    val highest: Int get() = if (type == ElementType.UINT8) 255 else 127
}

/**
 * A camera frame as it lies in memory: red, green, blue and one more byte for each pixel.
 *
 * [rotationDegrees] is how far it must be turned clockwise to stand upright: 0, 90, 180 or 270.
 */
class Frame(
    val bytes: ByteArray,
    val width: Int,
    val height: Int,
    val rowStride: Int,
    val pixelStride: Int,
    val rotationDegrees: Int,
) {
    private val isTurned: Boolean get() = rotationDegrees == 90 || rotationDegrees == 270
    val uprightWidth: Int get() = if (isTurned) height else width
    val uprightHeight: Int get() = if (isTurned) width else height

    /** A colour (0 red, 1 green, 2 blue) of the upright image, in 0..255. */
    fun colour(column: Int, row: Int, channel: Int): Int {
        val (x, y) = when (rotationDegrees) {
            90 -> row to height - 1 - column
            180 -> width - 1 - column to height - 1 - row
            270 -> width - 1 - row to column
            else -> column to row
        }
        return bytes[y * rowStride + x * pixelStride + channel].toInt() and 0xff
    }
}

/** What the model sees of an image: its size, and (pixel - mean) / std for each channel. */
class ImageSpec(
    val width: Int,
    val height: Int,
    val channels: Int,
    val mean: FloatArray,
    val std: FloatArray,
)

/** A class and how sure the model is of it. */
data class Score(val label: String, val value: Float)

/** The two source pixels between which a target pixel lies, and the weight of the second. */
class Between(val first: Int, val second: Int, val weight: Float)

/**
 * Where the pixels of a row of [targetSize] lie in [sourceSize] pixels from [offset] on, by the
 * centres of the pixels, as tf.image.resize(antialias=False) does.
 */
fun positions(sourceSize: Int, targetSize: Int, offset: Int): List<Between> {
    val step = sourceSize.toFloat() / targetSize
    return List(targetSize) { index ->
        val centre = (index + 0.5f) * step - 0.5f
        val low = floor(centre)
        val first = max(low.toInt(), 0)
        val second = min(low.toInt() + 1, sourceSize - 1)
        Between(offset + first, offset + second, centre - low)
    }
}

/** The middle of the frame, as large as fits in the model's proportions, resized and normalized. */
fun imageTensor(frame: Frame, spec: ImageSpec): FloatArray {
    val cropWidth = min(frame.uprightWidth, frame.uprightHeight * spec.width / spec.height)
    val cropHeight = min(frame.uprightHeight, frame.uprightWidth * spec.height / spec.width)
    val columns =
        positions(cropWidth, spec.width, (frame.uprightWidth - cropWidth) / 2)
    val rows =
        positions(cropHeight, spec.height, (frame.uprightHeight - cropHeight) / 2)
    val colours = FloatArray(3)
    val values = FloatArray(spec.height * spec.width * spec.channels)
    var next = 0
    for (row in rows) {
        for (column in columns) {
            for (channel in 0..2) {
                colours[channel] = blended(frame, column, row, channel)
            }
            for (channel in 0 until spec.channels) {
                val pixel = if (spec.channels == 1) grey(colours) else colours[channel]
                values[next++] = (pixel - spec.mean[channel]) / spec.std[channel]
            }
        }
    }
    return values
}

private fun blended(frame: Frame, column: Between, row: Between, channel: Int): Float {
    fun along(y: Int): Float {
        val left = frame.colour(column.first, y, channel).toFloat()
        val right = frame.colour(column.second, y, channel).toFloat()
        return left + (right - left) * column.weight
    }
    val top = along(row.first)
    return top + (along(row.second) - top) * row.weight
}

/** Luma of ITU-R BT.601. */
private fun grey(colours: FloatArray): Float =
    0.299f * colours[0] + 0.587f * colours[1] + 0.114f * colours[2]

/** Real numbers as a quantized tensor stores them: halves away from zero, as LiteRT's kernels. */
fun quantized(values: FloatArray, spec: TensorSpec): ByteArray =
    ByteArray(values.size) { index ->
        val scaled = values[index] / spec.scale
        val whole = truncate(scaled)
        val rounded = if (abs(scaled - whole) >= 0.5f) whole + sign(scaled) else whole
        (rounded + spec.zeroPoint).coerceIn(spec.lowest.toFloat(), spec.highest.toFloat())
            .toInt().toByte()
    }

/** The real numbers that a quantized tensor stands for. */
fun dequantized(stored: ByteArray, spec: TensorSpec): FloatArray =
    FloatArray(stored.size) { index ->
        val value = stored[index].toInt()
        val number = if (spec.type == ElementType.UINT8) value and 0xff else value
        spec.scale * (number - spec.zeroPoint)
    }

/** exp(x) / sum exp(x), finite for any finite x. */
fun softmax(values: FloatArray): FloatArray {
    val highest = values.maxOrNull() ?: return values
    val powers = FloatArray(values.size) { index -> exp(values[index] - highest) }
    val sum = powers.sum()
    return FloatArray(values.size) { index -> powers[index] / sum }
}

/** The [count] highest scores, the highest first, the first of equals first. */
fun highest(values: FloatArray, labels: List<String>, count: Int): List<Score> =
    values.indices.sortedByDescending { values[it] }.take(count)
        .map { Score(labels[it], values[it]) }
