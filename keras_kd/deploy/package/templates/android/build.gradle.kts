plugins {
    id("com.android.application") version "@ANDROID_PLUGIN_VERSION@" apply false
    id("org.jetbrains.kotlin.android") version "@KOTLIN_VERSION@" apply false
}
