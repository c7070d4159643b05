import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "@PACKAGE@"
    compileSdk = @COMPILE_SDK@

    defaultConfig {
        applicationId = "@PACKAGE@"
        minSdk = @MIN_SDK@
        targetSdk = @TARGET_SDK@
        versionCode = 1
        versionName = "1.0"
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }

    androidResources {
        // LiteRT maps the model from the package, which a compressed file does not allow.
        noCompress += "tflite"
    }
}

kotlin {
    compilerOptions {
        jvmTarget.set(JvmTarget.JVM_11)
    }
}

dependencies {
@LITERT_DEPENDENCIES@
    implementation("androidx.activity:activity-ktx:@ACTIVITY_VERSION@")
    implementation("androidx.core:core-ktx:@CORE_VERSION@")
    implementation("androidx.camera:camera-camera2:@CAMERA_VERSION@")
    implementation("androidx.camera:camera-lifecycle:@CAMERA_VERSION@")
    implementation("androidx.camera:camera-view:@CAMERA_VERSION@")
}
