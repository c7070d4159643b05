// Written by keras_kd.deploy.package.write_project for assets/@MODEL_FILE@. Do not edit.

package @PACKAGE@

/** What the model takes and gives. */
object ModelSpec {
    const val MODEL_FILE = "@MODEL_FILE@"
    const val LABELS_FILE = "@LABELS_FILE@"

    /** Whether the outputs are logits, which a softmax turns into probabilities. */
    const val GIVES_LOGITS = @GIVES_LOGITS@

    val IMAGE = ImageSpec(
        width = @WIDTH@,
        height = @HEIGHT@,
        channels = @CHANNELS@,
        mean = floatArrayOf(@MEAN@),
        std = floatArrayOf(@STD@),
    )
    val INPUT = TensorSpec(ElementType.@INPUT_TYPE@, @INPUT_SCALE@, @INPUT_ZERO_POINT@)
    val OUTPUT = TensorSpec(ElementType.@OUTPUT_TYPE@, @OUTPUT_SCALE@, @OUTPUT_ZERO_POINT@)
}
