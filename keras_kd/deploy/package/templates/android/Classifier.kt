package @PACKAGE@

import android.content.Context
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel

/** The model on LiteRT. To be used from one thread. */
class Classifier(context: Context) : AutoCloseable {
    private val labels: List<String> =
        context.assets.open(ModelSpec.LABELS_FILE).bufferedReader().use { it.readLines() }
    private val model = CompiledModel.create(
        context.assets,
        ModelSpec.MODEL_FILE,
        CompiledModel.Options(@ACCELERATORS@),
    )
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()

    /** The [count] likeliest classes of a frame. */
    fun classify(frame: Frame, count: Int): List<Score> {
        val values = imageTensor(frame, ModelSpec.IMAGE)
        if (ModelSpec.INPUT.type == ElementType.FLOAT32) {
            inputs[0].writeFloat(values)
        } else {
            // Copies bytes: it is the method for uint8 too.
            inputs[0].writeInt8(quantized(values, ModelSpec.INPUT))
        }
        model.run(inputs, outputs)
        val scores = if (ModelSpec.OUTPUT.type == ElementType.FLOAT32) {
            outputs[0].readFloat()
        } else {
            dequantized(outputs[0].readInt8(), ModelSpec.OUTPUT)
        }
        return highest(if (ModelSpec.GIVES_LOGITS) softmax(scores) else scores, labels, count)
    }

    override fun close() {
        (inputs + outputs).forEach { it.close() }
        model.close()
    }
}
