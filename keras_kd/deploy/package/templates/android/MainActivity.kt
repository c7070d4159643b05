package @PACKAGE@

import android.Manifest
import android.content.pm.PackageManager
import android.graphics.Color
import android.os.Bundle
import android.view.Gravity
import android.view.ViewGroup.LayoutParams.MATCH_PARENT
import android.view.ViewGroup.LayoutParams.WRAP_CONTENT
import android.widget.FrameLayout
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.ImageProxy
import androidx.camera.core.Preview
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.camera.view.PreviewView
import androidx.core.content.ContextCompat
import java.util.Locale
import java.util.concurrent.Executors

/** Shows what the back camera sees and what the model takes it for. */
class MainActivity : ComponentActivity() {
    private lateinit var camera: PreviewView
    private lateinit var answer: TextView

    // Made, used and closed on the worker alone.
    private var classifier: Classifier? = null
    private val worker = Executors.newSingleThreadExecutor()

    private val permission =
        registerForActivityResult(ActivityResultContracts.RequestPermission()) { isGranted ->
            if (isGranted) startCamera() else answer.setText(R.string.camera_needed)
        }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        camera = PreviewView(this)
        answer = TextView(this).apply {
            textSize = 20f
            setTextColor(Color.WHITE)
            setBackgroundColor(Color.argb(160, 0, 0, 0))
            setPadding(32, 32, 32, 96)
        }
        val layout = FrameLayout(this)
        layout.addView(camera, FrameLayout.LayoutParams(MATCH_PARENT, MATCH_PARENT))
        layout.addView(
            answer,
            FrameLayout.LayoutParams(MATCH_PARENT, WRAP_CONTENT, Gravity.BOTTOM),
        )
        setContentView(layout)
        val state = ContextCompat.checkSelfPermission(this, Manifest.permission.CAMERA)
        if (state == PackageManager.PERMISSION_GRANTED) {
            startCamera()
        } else {
            permission.launch(Manifest.permission.CAMERA)
        }
    }

    override fun onDestroy() {
        super.onDestroy()
        worker.execute { classifier?.close() }
        worker.shutdown()
    }

    private fun startCamera() {
        val provider = ProcessCameraProvider.getInstance(this)
        provider.addListener(
            {
                val preview = Preview.Builder().build()
                preview.setSurfaceProvider(camera.surfaceProvider)
                val frames = ImageAnalysis.Builder()
                    .setBackpressureStrategy(ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST)
                    .setOutputImageFormat(ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888)
                    .build()
                frames.setAnalyzer(worker) { image -> image.use { show(it) } }
                val cameras = provider.get()
                cameras.unbindAll()
                cameras.bindToLifecycle(
                    this,
                    CameraSelector.DEFAULT_BACK_CAMERA,
                    preview,
                    frames,
                )
            },
            ContextCompat.getMainExecutor(this),
        )
    }

    private fun show(image: ImageProxy) {
        val plane = image.planes[0]
        val bytes = ByteArray(plane.buffer.remaining())
        plane.buffer.get(bytes)
        val frame = Frame(
            bytes,
            image.width,
            image.height,
            plane.rowStride,
            plane.pixelStride,
            image.imageInfo.rotationDegrees,
        )
        val ready = classifier ?: Classifier(this).also { classifier = it }
        val text = ready.classify(frame, SHOWN).joinToString("\n") { score ->
            String.format(Locale.US, "%.2f  %s", score.value, score.label)
        }
        runOnUiThread { answer.text = text }
    }

    private companion object {
        const val SHOWN = 3
    }
}
