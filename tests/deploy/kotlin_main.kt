package com.example.student

/** Lines of numbers in, lines of numbers out: what Pixels.kt makes of them. */
fun main() {
    generateSequence(::readLine).forEach { line ->
        val words = line.split(" ")
        val numbers = words.drop(1)
        when (words[0]) {
            "image" -> println(image(numbers).joinToString(" "))
            "quantize" -> println(quantized(floats(numbers.drop(3)), spec(numbers)).joinToString(" "))
            "dequantize" -> {
                val stored = numbers.drop(3).map { it.toInt().toByte() }.toByteArray()
                println(dequantized(stored, spec(numbers)).joinToString(" "))
            }
            "softmax" -> println(softmax(floats(numbers)).joinToString(" "))
            "highest" -> {
                val values = floats(numbers.drop(1))
                val labels = values.indices.map { it.toString() }
                println(highest(values, labels, numbers[0].toInt()).joinToString(" ") { it.label })
            }
            "model" -> println(
                listOf(
                    ModelSpec.IMAGE.width, ModelSpec.IMAGE.height, ModelSpec.IMAGE.channels,
                    ModelSpec.INPUT.type, ModelSpec.INPUT.scale, ModelSpec.INPUT.zeroPoint,
                    ModelSpec.OUTPUT.type, ModelSpec.OUTPUT.scale, ModelSpec.OUTPUT.zeroPoint,
                    ModelSpec.GIVES_LOGITS, ModelSpec.IMAGE.mean.joinToString(","),
                    ModelSpec.IMAGE.std.joinToString(","),
                ).joinToString(" ")
            )
        }
    }
}

private fun floats(words: List<String>) = words.map { it.toFloat() }.toFloatArray()

private fun spec(words: List<String>) =
    TensorSpec(ElementType.valueOf(words[0]), words[1].toFloat(), words[2].toInt())

private fun image(words: List<String>): FloatArray {
    val sizes = words.take(8).map { it.toInt() }
    val channels = sizes[7]
    val scales = floats(words.drop(8).take(2 * channels))
    val bytes = words.drop(8 + 2 * channels).map { it.toInt().toByte() }.toByteArray()
    val frame = Frame(bytes, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4])
    val image = ImageSpec(
        sizes[5], sizes[6], channels,
        scales.copyOfRange(0, channels), scales.copyOfRange(channels, 2 * channels),
    )
    return imageTensor(frame, image)
}
